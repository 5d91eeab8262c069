use std::path::Path;

use super::*;

#[test]
fn names_are_taken_apart() {
    let parse = |text: &str| text.parse::<HubName>();
    let table = [
        ("org/name", ("org", "name", None, None)),
        ("org/Name-1.5B_x:Q4_K_M", ("org", "Name-1.5B_x", Some("Q4_K_M"), None)),
        ("org/name@refs/pr/1", ("org", "name", None, Some("refs/pr/1"))),
        ("org/name:q8_0@v1.0", ("org", "name", Some("q8_0"), Some("v1.0"))),
    ];
    for (text, (owner, model, file, revision)) in table {
        let name = parse(text).unwrap();
        assert_eq!((name.owner.as_str(), name.model.as_str()), (owner, model));
        assert_eq!((name.file.as_deref(), name.revision.as_deref()), (file, revision));
        assert_eq!(name.to_string(), text);
    }
    for text in [
        "",
        "name",
        "a/b/c",
        "/b",
        "a/",
        "a/..",
        "../b",
        "a/b:",
        "a/b@",
        "a/b@../x",
        "a b/c",
        "a/b:x/y",
        "-a/b",
        "a/b--c",
        "a/b@x//y",
        "a/b?c",
        "https://h/a/b",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_here_is_no_name() {
    for path in ["/org/name", "./org", "model.gguf", "org/model.gguf", "src/hub", "src/nowhere/x", "C:"] {
        assert_eq!(named(Path::new(path)), None, "{path}");
    }
    assert_eq!(named(Path::new("org/name")).map(|name| name.repository()).as_deref(), Some("org/name"));
}
