//! The pairs and turns of small files.

use super::*;
use crate::recipe::iterate::Floor;
use crate::records::TreeNode;

fn asked(i: usize) -> Asked {
    Asked { key: json!(i), prompt: format!("prompt {i}"), instruction_id_list: Vec::new(), kwargs: Vec::new() }
}

fn draft(response: &str, yes: usize, no: usize) -> Draft {
    let votes = Votes { yes, no, invalid: 0 };
    Draft {
        response: response.into(),
        cut: false,
        votes,
        value: votes.value(),
        accepted: yes > no,
        critique: format!("of {response}"),
        right: None,
    }
}

fn node(parent: Option<usize>, response: &str, yes: usize, no: usize) -> TreeNode {
    let Draft { response, votes, value, accepted, critique, right, .. } = draft(response, yes, no);
    let depth = parent.map_or(0, |_| 1);
    TreeNode { parent, depth, response, reflection: "fix".into(), critique, votes, value, accepted, right }
}

fn data() -> (Vec<Sampled>, Vec<Searched>) {
    let samples = (0..4).map(|i| Sampled {
        asked: asked(i),
        drafts: vec![draft("bad", 0, 3), draft("good and long", 3, if i == 0 { 1 } else { 0 })],
    });
    let trees = (0..4).map(|i| Searched {
        asked: asked(i),
        nodes: vec![node(None, "bad", 0, 3), node(Some(0), "worse", 1, 3), node(Some(0), "fine", 3, i % 2)],
        best: if i < 3 { 2 } else { 1 },
        accepted: i < 3,
    });
    (samples.collect(), trees.collect())
}

fn count(counts: &Counts, name: &str) -> usize {
    counts.iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn accepted_refinements_become_pairs_and_agreement_is_asked_for() {
    let (samples, trees) = data();
    let all = Build::default();
    let settings = Settings { seed: 1, build: &all };
    let (pairs, counts) = pairs(&settings, &samples, &trees);
    assert_eq!((pairs.len(), count(&counts, "pairs found")), (3, 3));
    assert!(pairs.iter().all(|pair| pair.chosen_text == "fine" && pair.rejected_text == "bad"));
    let strict = Build { unanimous: true, ..Build::default() };
    let (pairs, _) = super::pairs(&Settings { seed: 1, build: &strict }, &samples, &trees);
    assert_eq!(pairs.len(), 2);
    // The texts of this test are so short that their lengths say nothing.
    let floor = Floor { longest: 9.0, ..Floor::default() };
    let apart = Build { pairing: Pairing::Independent, pairs: Some(2), floor, ..Build::default() };
    let (pairs, counts) = super::pairs(&Settings { seed: 1, build: &apart }, &samples, &trees);
    assert_eq!((pairs.len(), count(&counts, "pairs found")), (2, 4));
    assert!(pairs.iter().all(|pair| pair.chosen_text == "good and long"));
}

#[test]
fn a_draft_of_a_prompt_is_kept_if_every_vote_accepts_it() {
    let (mut samples, _) = data();
    samples[2].drafts[1].cut = true;
    let build = Build::default();
    let settings = Settings { seed: 1, build: &build };
    let mut prompts: Vec<String> = kept(&settings, &samples, 9)
        .into_iter()
        .map(|line| {
            assert_eq!(line.messages[1].content, "good and long");
            line.messages[0].content.clone()
        })
        .collect();
    prompts.sort();
    assert_eq!(prompts, ["prompt 1", "prompt 3"]);
    assert_eq!(kept(&settings, &samples, 1).len(), 1);
}

#[test]
fn lengths_are_balanced_by_leaving_out_the_extremes() {
    let pair = |extra: usize| PairLine::new("p", &"x".repeat(10 + extra), &"y".repeat(10));
    let mut pairs: Vec<PairLine> = [0, 1, 30, 2, 0].map(pair).into();
    balance(&mut pairs, 1.0);
    assert_eq!(pairs.iter().map(|p| p.chosen_text.len() - 10).collect::<Vec<_>>(), [0, 1, 2, 0]);
    balance(&mut pairs, 0.0);
    assert_eq!(pairs.len(), 2);
}

#[test]
fn turns_are_capped_by_kind_and_agree_with_the_votes() {
    let (samples, trees) = data();
    let templates = Templates::general();
    let build = Build { draft_negative: 1, ..Build::default() };
    let (lines, counts) = turns(&Settings { seed: 1, build: &build }, &samples, &trees, &templates);
    let expected = [3, 4, 4, 4, 1];
    assert_eq!(counts.iter().map(|(_, n)| *n).collect::<Vec<_>>(), expected);
    assert_eq!(lines.len(), expected.iter().sum::<usize>());
    for line in &lines {
        assert_eq!(line.messages.len(), if line.kind.as_deref() == Some("refinements") { 4 } else { 2 });
    }
    let refined = lines.iter().find(|line| line.messages.len() == 4).unwrap();
    assert_eq!(templates.parse_refinement(&refined.messages[3].content).unwrap().response, "fine");
    let strict = Build { agreement: 1.0, ..Build::default() };
    let (_, counts) = turns(&Settings { seed: 1, build: &strict }, &samples, &trees, &templates);
    assert_eq!(counts.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3, 2, 0, 3, 4]);
}

#[test]
fn a_servers_traffic_is_input_and_repeats_count_once() {
    let (traffic, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, trees) = data();
    let lines: Vec<String> = trees.iter().map(|tree| serde_json::to_string(tree).unwrap()).collect();
    std::fs::write(traffic.path().join("traffic-1.jsonl"), lines[..3].join("\n")).unwrap();
    let half = &lines[3][..lines[3].len() / 2];
    std::fs::write(traffic.path().join("traffic-2.jsonl"), [lines[2].as_str(), &lines[3], half].join("\n")).unwrap();
    std::fs::write(traffic.path().join("notes.txt"), "no search").unwrap();
    let (samples_path, trees_path) = collect_traffic(traffic.path(), out.path()).unwrap();
    let found: Vec<Searched> = read(&trees_path, BadLines::Stop, Ok).unwrap().items;
    assert_eq!(found, trees);
    assert!(read(&samples_path, BadLines::Stop, Ok::<Sampled, _>).unwrap().items.is_empty());
    let empty = tempfile::tempdir().unwrap();
    let message = format!("{:#}", collect_traffic(empty.path(), out.path()).unwrap_err());
    assert!(message.contains("--traffic-dir"), "{message}");
}

#[test]
fn a_chosen_response_that_only_games_the_rules_makes_no_pair() {
    let (samples, mut trees) = data();
    for tree in &mut trees {
        tree.nodes[0].response = "The harbour was quiet in the morning and the boats lay still.".into();
        tree.nodes[2].response = "[message]".into();
    }
    let build = Build::default();
    let (pairs, counts) = pairs(&Settings { seed: 1, build: &build }, &samples, &trees);
    assert_eq!((pairs.len(), count(&counts, "pairs agreed on"), count(&counts, "pairs above the floor")), (0, 3, 0));
}
