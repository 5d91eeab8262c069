//! Every prompt has a response that follows all of its constraints: the tests write one.

use std::collections::{BTreeMap, HashSet};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use spar::verify::{sentences, words};

use super::constraint::LANGUAGES;
use super::*;

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::HeldOut];

/// Clauses without capital letters, commas, rare letters or words of the domains.
const CLAUSES: [&str; 8] = [
    "this is the first thing that we had wanted to tell them about it",
    "there were many more people in the old house than we had thought",
    "she told us that the others had been there for a long time",
    "he had the best of all the cats and dogs in the whole street",
    "we are here because it is better to be together than alone",
    "most of them had already been to the north of the country",
    "you should not be afraid of the things that you do not understand",
    "at the end of the day both of them went home and felt fine",
];

/// A text in each language that is asked for.
const TEXTS: [(&str, &str); 16] = [
    ("de", "Wir gehen heute zusammen in die Stadt und kaufen dort frisches Brot und etwas Milch"),
    ("fr", "Nous allons ensemble dans la ville pour acheter du pain frais et un peu de lait"),
    ("es", "Hoy vamos juntos a la ciudad para comprar pan fresco y un poco de leche para los niños"),
    ("it", "Oggi andiamo insieme in città per comprare del pane fresco e un po' di latte per gli amici"),
    ("pt", "Hoje nós vamos juntos para a cidade comprar pão fresco e um pouco de leite para as crianças"),
    ("fi", "Tänään menemme yhdessä kaupunkiin ostamaan tuoretta leipää ja vähän maitoa lapsille"),
    ("ru", "Сегодня мы вместе идём в город чтобы купить свежий хлеб и немного молока для детей"),
    ("bg", "Днес отиваме заедно в града за да купим пресен хляб и малко мляко за децата които ни чакат"),
    ("hi", "आज हम साथ में शहर जा रहे हैं और वहाँ ताज़ी रोटी और थोड़ा दूध खरीदेंगे"),
    ("bn", "আজ আমরা একসাথে শহরে যাচ্ছি এবং সেখানে তাজা রুটি ও কিছু দুধ কিনব"),
    ("ta", "இன்று நாங்கள் ஒன்றாக நகரத்திற்குச் சென்று புதிய ரொட்டியும் கொஞ்சம் பாலும் வாங்குவோம்"),
    ("ar", "نذهب اليوم معا إلى المدينة لشراء الخبز الطازج وقليل من الحليب للأطفال"),
    ("fa", "امروز با هم به شهر می‌رویم تا نان تازه و کمی شیر برای بچه‌ها بخریم و به خانه برگردیم"),
    ("ko", "오늘 우리는 함께 도시에 가서 신선한 빵과 우유를 조금 살 것입니다"),
    ("vi", "Hôm nay chúng tôi cùng nhau đi vào thành phố để mua bánh mì tươi và một ít sữa cho các em"),
    ("sw", "Leo tunakwenda pamoja mjini kununua mkate mpya na maziwa kidogo kwa ajili ya watoto wetu"),
];

/// Writes a response that follows every constraint of the instruction.
fn witness(instruction: &Instruction) -> String {
    let find = |kind| instruction.constraints.iter().find(|constraint| constraint.kind == kind);
    let has = |kind| find(kind).is_some();
    let text = |kind, name: &str| find(kind).and_then(|c| c.check.kwargs[name].as_str()).unwrap_or_default().to_owned();
    let count = |kind, name: &str| find(kind).and_then(|c| c.check.kwargs[name].as_u64()).unwrap_or(0) as usize;
    let least = |kind, count_name: &str, relation: &str| match text(kind, relation).as_str() {
        "at least" => count(kind, count_name),
        _ => 0,
    };
    let language = text(Kind::Language, "language");
    let foreign = TEXTS.iter().find(|(code, _)| *code == language).map(|(_, text)| *text);
    let mut next = 0;
    let mut clause = || {
        next += 1;
        foreign.unwrap_or(CLAUSES[(next - 1) % CLAUSES.len()]).to_owned()
    };

    // Everything that is required without a place of its own becomes part of one long sentence.
    let mut line = vec![clause(), clause()];
    if let Some(include) = find(Kind::Include) {
        line.extend(
            include.check.kwargs["keywords"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()),
        );
    }
    let repeated = least(Kind::Frequency, "frequency", "relation");
    line.extend(std::iter::repeat_n(text(Kind::Frequency, "keyword"), repeated));
    line.extend(std::iter::repeat_n(
        "WOW".to_owned(),
        least(Kind::CapitalWords, "capital_frequency", "capital_relation"),
    ));
    let letters = least(Kind::Letters, "let_frequency", "let_relation");
    line.extend((letters > 0).then(|| text(Kind::Letters, "letter").repeat(letters)));
    line.extend(std::iter::repeat_n("[name]".to_owned(), count(Kind::Placeholders, "num_placeholders")));
    line.extend(std::iter::repeat_n("*this*".to_owned(), count(Kind::Highlights, "num_highlights")));
    let asked = least(Kind::Words, "num_words", "relation");
    while words(&line.join(" ")).count() < asked {
        line.push(clause());
    }
    let mut body = line.join(" ");
    for _ in 0..least(Kind::Sentences, "num_sentences", "relation") {
        body += &format!(". {}", clause());
    }
    let splitter = text(Kind::Sections, "section_spliter");
    for section in 1..=count(Kind::Sections, "num_sections") {
        body += &format!("\n{splitter} {section} {}", clause());
    }
    for _ in 1..count(Kind::Paragraphs, "num_paragraphs") {
        body += &format!("\n***\n{}", clause());
    }
    if has(Kind::FirstWord) {
        let nth = count(Kind::FirstWord, "nth_paragraph");
        let first = text(Kind::FirstWord, "first_word");
        let mut parts: Vec<String> = (1..=count(Kind::FirstWord, "num_paragraphs")).map(|_| clause()).collect();
        parts[nth - 1] = format!("{first} {}", parts[nth - 1]);
        *parts.last_mut().unwrap() += &format!(" {body}");
        body = parts.join("\n\n");
    }
    for _ in 0..count(Kind::Bullets, "num_bullets") {
        body += &format!("\n- {}", clause());
    }
    if has(Kind::Choice) {
        body += ". My answer is no.";
    }
    if has(Kind::Two) {
        body += &format!("\n******\n{}", clause());
    }
    if has(Kind::Postscript) {
        body += &format!("\n{} {}", text(Kind::Postscript, "postscript_marker"), clause());
    }
    if has(Kind::End) {
        body += &format!(". {}", text(Kind::End, "end_phrase"));
    }
    if has(Kind::Title) {
        body = format!("<<{}>>\n{body}", foreign.unwrap_or("the day"));
    }
    if has(Kind::Repeat) {
        body = format!("{}\n{body}", text(Kind::Repeat, "prompt_to_repeat"));
    }
    if has(Kind::Json) {
        body = format!("{{\"a\": \"{body}\"}}");
    }
    if has(Kind::Upper) {
        body = body.to_uppercase();
    }
    if has(Kind::Lower) {
        body = body.to_lowercase();
    }
    if has(Kind::Quote) { format!("\"{body}\"") } else { body }
}

fn assert_witnessed(instruction: &Instruction) {
    let text = witness(instruction);
    for constraint in &instruction.constraints {
        let constraints: Vec<_> = instruction.constraints.iter().map(|c| c.check.describe()).collect();
        assert!(
            constraint.check.strict(&text),
            "{} fails of {constraints:?}; {} words, {} sentences\n{text}",
            constraint.check.describe(),
            words(&text).count(),
            sentences(&text)
        );
    }
}

#[test]
fn every_prompt_can_be_followed_and_its_rules_are_accepted_from_the_file() {
    for i in 0..3000 {
        let mut rng = ChaCha8Rng::seed_from_u64(i);
        let instruction = draw(SPLITS[i as usize % 3], &mut rng);
        assert_witnessed(&instruction);
        let asked = instruction.asked(i as usize);
        let line = serde_json::to_string(&asked).unwrap();
        let read: Asked = serde_json::from_str(&line).unwrap();
        assert_eq!(read.checks().unwrap().len(), instruction.constraints.len());
        assert!((1..=4).contains(&instruction.constraints.len()));
        assert!(instruction.constraints.iter().all(|c| asked.prompt.contains(&c.sentence)), "{}", asked.prompt);
    }
}

#[test]
fn kinds_that_do_not_conflict_can_be_asked_for_together() {
    let seeds: Vec<&Seed> = seeds::SEEDS.iter().filter(|seed| seed.domain == QUESTIONS).collect();
    for (a, _) in KINDS {
        for (b, _) in KINDS.into_iter().filter(|(b, _)| a < *b && !a.conflicts(*b)) {
            assert!(!b.conflicts(a));
            for i in 0..6 {
                let mut rng = ChaCha8Rng::seed_from_u64(i);
                assert_witnessed(&realise(seeds[i as usize], &[a, b], &mut rng));
            }
        }
    }
}

#[test]
fn pairs_that_contradict_each_other_conflict() {
    use Kind::{Bullets, Include, Json, Language, Lower, NoComma, Quote, Title, Two, Upper};
    for (a, b) in [(Lower, Upper), (Json, Title), (Json, NoComma), (Two, Bullets), (Language, Include), (Quote, Json)] {
        assert!(a.conflicts(b) && b.conflicts(a), "{a:?} {b:?}");
    }
    for i in 0..3000 {
        let instruction = draw(Split::Train, &mut ChaCha8Rng::seed_from_u64(i));
        let kinds: Vec<Kind> = instruction.constraints.iter().map(|constraint| constraint.kind).collect();
        for (i, kind) in kinds.iter().enumerate() {
            assert!(!kinds[..i].iter().any(|other| other.conflicts(*kind)), "{kinds:?}");
        }
    }
}

#[test]
fn splits_share_no_seed_and_no_set_of_kinds_and_have_every_kind() {
    let mut seeds: BTreeMap<&str, HashSet<String>> = BTreeMap::new();
    let mut sets: BTreeMap<Vec<Kind>, HashSet<String>> = BTreeMap::new();
    let mut kinds: HashSet<(Kind, String)> = HashSet::new();
    for i in 0..6000 {
        let split = SPLITS[i as usize % 3];
        let instruction = draw(split, &mut ChaCha8Rng::seed_from_u64(i));
        let mut set: Vec<Kind> = instruction.constraints.iter().map(|constraint| constraint.kind).collect();
        set.sort_unstable();
        let name = format!("{split:?}");
        kinds.extend(set.iter().map(|kind| (*kind, name.clone())));
        seeds.entry(instruction.seed.text).or_default().insert(name.clone());
        sets.entry(set).or_default().insert(name);
    }
    assert!(seeds.values().all(|splits| splits.len() == 1));
    assert!(sets.values().all(|splits| splits.len() == 1));
    assert_eq!(kinds.len(), 3 * KINDS.len());
    assert!(LANGUAGES.iter().zip(TEXTS).all(|((code, _), (known, _))| *code == known));
}
