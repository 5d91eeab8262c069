use super::*;
use crate::engine::derive_seed;

/// Writes `reply` after `prompt` with proposals of at most `most` tokens: steps, tokens proposed and accepted.
fn written(prompt: &[u32], reply: &[u32], most: usize) -> (usize, usize, usize) {
    let mut lookup = Lookup::new(most);
    let mut tokens = [prompt, &reply[..1]].concat();
    let (mut steps, mut proposed, mut accepted) = (0, 0, 0);
    while tokens.len() < prompt.len() + reply.len() {
        let done = tokens.len() - prompt.len();
        let count = lookup.propose(&mut tokens, prompt.len(), reply.len() - done - 1);
        assert_eq!((count, lookup.proposed()), (tokens.len() - prompt.len() - done, count));
        let right = tokens[prompt.len() + done..].iter().zip(&reply[done..]).take_while(|(a, b)| a == b).count();
        tokens.truncate(prompt.len() + done + right);
        assert_eq!(lookup.settle(tokens.len()), [right, count - right]);
        tokens.push(reply[done + right]);
        (steps, proposed, accepted) = (steps + 1, proposed + count, accepted + right);
    }
    assert_eq!(&tokens[prompt.len()..], reply);
    (steps, proposed, accepted)
}

/// Tokens of a text whose only repetitions are random.
fn text(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u64).map(|i| (derive_seed(seed, i) % 20_000) as u32).collect()
}

#[test]
fn a_copy_takes_few_steps() {
    let parent = text(1, 400);
    let prompt = [text(2, 50), parent.clone(), text(3, 30)].concat();
    let (steps, proposed, accepted) = written(&prompt, &parent, 32);
    assert!(steps <= 20, "{steps}");
    assert_eq!(proposed, accepted, "nothing differs");
}

#[test]
fn copying_resumes_after_each_kind_of_edit() {
    let parent = text(1, 300);
    let prompt = [text(2, 50), parent.clone(), text(3, 30)].concat();
    let edit = |at: usize, gone: usize, new: usize| [&parent[..at], &text(9, new), &parent[at + gone..]].concat();
    for (gone, new) in [(1, 1), (0, 1), (1, 0), (3, 2), (2, 5), (40, 0)] {
        let reply = edit(150, gone, new);
        let (steps, ..) = written(&prompt, &reply, 32);
        assert!(steps <= 30, "{gone} tokens become {new}: {steps} steps");
    }
}

#[test]
fn the_prompt_goes_before_the_reply_and_the_longest_match_before_both() {
    let propose = |prompt: &[u32], reply: &[u32]| {
        let mut tokens = [prompt, reply].concat();
        Lookup::new(2).propose(&mut tokens, prompt.len(), 9);
        tokens.split_off(prompt.len() + reply.len())
    };
    let table: [(&[u32], &[u32], &[u32]); 6] = [
        (&[1, 2, 3, 4, 5], &[9, 1, 2], &[3, 4]),
        (&[1, 2, 3, 4, 5, 1, 2, 7, 8], &[9, 1, 2], &[7, 8]),
        (&[1, 2, 3, 4, 5], &[1, 2, 7, 8, 9, 1, 2], &[3, 4]),
        (&[1, 2, 3, 4, 5], &[6, 1, 2, 7, 8, 6, 1, 2], &[7, 8]),
        (&[4, 5, 6], &[1, 2, 1, 2, 1], &[2, 1]),
        (&[4, 5, 6], &[7, 4, 8], &[]),
    ];
    for (prompt, reply, expected) in table {
        assert_eq!(propose(prompt, reply), expected, "{prompt:?} {reply:?}");
    }
}

#[test]
fn there_is_never_more_than_room_and_most() {
    let prompt = text(1, 100);
    for most in [1, 3, 5, 32] {
        let mut lookup = Lookup::new(most);
        let mut tokens = [&prompt[..], &prompt[10..13]].concat();
        assert_eq!(lookup.propose(&mut tokens.clone(), 100, 0), 0);
        for _ in 0..6 {
            let before = tokens.len();
            let count = lookup.propose(&mut tokens, 100, 7);
            assert!(count <= most.min(7) && tokens.len() == before + count);
            lookup.settle(tokens.len());
            tokens.push(prompt[(tokens.len() - 90) % 100]);
        }
    }
}

/// Words that follow one another by chance, as common words of a language do.
#[test]
fn a_text_that_copies_nothing_is_left_alone() {
    let common = |seed: u64, count: usize| -> Vec<u32> {
        let skewed = |draw: u64| ((draw % 1000) * (draw / 1000 % 1000) / 4000) as u32;
        (0..count as u64).map(|i| skewed(derive_seed(seed, i))).collect()
    };
    let (_, proposed, _) = written(&common(1, 800), &common(2, 800), 32);
    assert!(proposed < 60, "{proposed} of 800");
}
