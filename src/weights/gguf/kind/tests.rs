use super::*;

/// Golden values of `tests/golden/make_gguf.py`.
#[test]
fn numbers_are_those_of_the_reference() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/golden/gguf_blocks.json")).unwrap();
    for (id, case) in golden.as_object().unwrap() {
        let kind = Kind::new(id.parse().unwrap()).unwrap();
        let hex = case["blocks"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let (numbers, size) = kind.block();
        assert_eq!(bytes.len(), 2 * size, "{kind:?}");
        let mut found = vec![0.0; 2 * numbers];
        kind.read(&bytes, &mut found);
        let expected =
            case["bits"].as_array().unwrap().iter().map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32));
        for (place, (x, y)) in found.iter().zip(expected).enumerate() {
            // Zeros may differ in their sign.
            assert!(*x == y, "{kind:?}, number {place}: {x} instead of {y}");
        }
    }
    assert_eq!(golden.as_object().unwrap().len(), 11);
}

#[test]
fn types_that_are_not_computed_with_have_names() {
    for (id, name) in
        [(16, "IQ2_XXS"), (23, "IQ4_XS"), (39, "MXFP4"), (28, "F64"), (4, "number 4"), (999, "number 999")]
    {
        assert_eq!(Kind::new(id), Err(name.to_owned()));
    }
}
