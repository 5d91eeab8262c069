#!/usr/bin/env python3
"""The tokens of 1,000 texts of all scripts by the tokenizers of GGUF files and by those of `transformers`, one family after the other:

    python3 tests/golden/tokens.py target/release/spar-train [FILE.gguf DIRECTORY]

For each family a vocabulary is trained with the parts of `transformers`' own class, written as a GGUF file as llama.cpp's converter
does, and unpacked by `spar-train`. A published model can be given as a file and as its directory. There must be no differences.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "training" / "tests"))
import python_environment

python_environment.enter(["transformers", "gguf", "sentencepiece"])

import gguf
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

COUNT = 1000
WORDS = """the of can't I'LL they've we're he'd THE'S don't 3.14 1,000,000 007 x=1; foo_bar() "quoted" e-mail@example.org http://a.b/c?d=1
naïve café Straße Œuvre ﬁne e\u0301 o\u0308 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd ½ ² Ⅷ ① € — … \u00a0 \u3000 \u200b""".split(" ")


def scripts():
    """Letters, marks and digits by the first word of their names, which is their script."""
    found = {}
    for code in range(0x20, 0x1FBFF):
        char = chr(code)
        if unicodedata.category(char)[0] in "LMN":
            found.setdefault(unicodedata.name(char, "?").split(" ")[0].split("-")[0], []).append(char)
    return {name: chars for name, chars in found.items() if len(chars) > 10}


def texts():
    draw = random.Random(7)
    letters = scripts()
    names = sorted(letters)
    spaces = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "", "\u00a0"]
    found = []
    for number in range(COUNT):
        script = letters[names[number % len(names)]]
        common = script[: max(20, len(script) // 50)]
        text = ""
        for _ in range(draw.randrange(2, 30)):
            word = draw.choice(WORDS) if draw.random() < 0.4 else "".join(
                draw.choice(common if draw.random() < 0.8 else script) for _ in range(draw.randrange(1, 9)))
            text += draw.choice([word, word.upper(), word.capitalize(), word]) + draw.choice(".,!?;:") * (draw.random() < 0.2)
            text += draw.choice(spaces)
        found.append(text)
    return found, len(names)


def digits():
    """The parts of SmolLM's and StarCoder's published `tokenizer.json`."""
    return None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def of(tokenizer):
    inner = tokenizer._tokenizer
    return inner.normalizer, inner.pre_tokenizer


def split(pattern):
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated", False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return None, pre_tokenizers.Sequence(parts)


def byte_pairs(parts, whole, corpus):
    """A vocabulary of byte pairs; `whole` takes pieces that are tokens as they are."""
    normalizer, pre_tokenizer = parts
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, special_tokens=["<|begin|>", "<|end|>"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def pieces(corpus, folder):
    """A vocabulary of SentencePiece's byte pairs with its scores, and `transformers`' tokenizer of it."""
    import sentencepiece

    source = folder / "corpus.txt"
    source.write_text("\n".join(" ".join(text.split()) for text in corpus))
    sentencepiece.SentencePieceTrainer.train(
        input=str(source), model_prefix=str(folder / "pieces"), model_type="bpe", vocab_size=6000, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.99,
        minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))
    ids = range(processor.vocab_size())
    kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1 for i in ids]
    return processor, [processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids], kinds


def write(path, model, tokens, kinds, pre=None, merges=None, scores=None):
    """A model of one layer with this vocabulary."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pre:
        writer.add_tokenizer_pre(pre)
    if merges:
        writer.add_token_merges(merges)
    if scores:
        writer.add_token_scores(scores)
    writer.add_bos_token_id(1 if model == "llama" else 0)
    writer.add_eos_token_id(2 if model == "llama" else 1)
    shapes = {"token_embd": (len(tokens), 8), "output_norm": (8,)}
    shapes |= {f"blk.0.{name}": (8, 8) for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]}
    shapes |= {f"blk.0.{name}": (8,) for name in ["attn_norm", "ffn_norm"]}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def unpacked(program, file, folder):
    out = folder / f"{file.stem}-out"
    subprocess.run([program, "unpack", "--file", file, "--out", out], check=True, stdout=subprocess.DEVNULL)
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def compare(name, ours, expected, texts):
    wrong = [text for text in texts if ours(text) != expected(text)]
    print(f"{name}: {len(wrong)} differences on {len(texts)} texts")
    for text in wrong[:3]:
        print(f"  {text!r}\n    ours     {ours(text)}\n    expected {expected(text)}")
    return len(wrong)


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    found, count = texts()
    print(f"{len(found)} texts of {count} scripts")
    llama3 = TikTokenConverter(vocab_file="none").pattern
    families = {
        "gpt-2": (of(GPT2Tokenizer()), False), "smollm": (digits(), False), "starcoder": (digits(), False),
        "llama-bpe": (split(llama3), True), "dbrx": (split(llama3), False), "qwen2": (of(Qwen2Tokenizer()), False),
        "deepseek-r1-qwen": ((None, of(Qwen2Tokenizer())[1]), False), "tekken": (split(TEKKEN), True),
    }
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        plain = lambda tokenizer: lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        for name, (parts, whole) in families.items():
            expected = byte_pairs(parts, whole, found[::2])
            described = json.loads(expected.to_str())
            vocabulary = sorted(described["model"]["vocab"].items(), key=lambda item: item[1])
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
            file = folder / f"{name}.gguf"
            write(file, "gpt2", [token for token, _ in vocabulary], [3, 3] + [1] * (len(vocabulary) - 2), name, merges)
            wrong += compare(name, plain(unpacked(program, file, folder)), plain(expected), found)
        processor, tokens, scores, kinds = pieces(found[::2], folder)
        file = folder / "llama.gguf"
        write(file, "llama", tokens, kinds, scores=scores)
        wrong += compare("llama (SentencePiece)", plain(unpacked(program, file, folder)), lambda text: processor.encode(text), found)
        if len(sys.argv) > 3:
            published = Tokenizer.from_file(str(pathlib.Path(sys.argv[3]) / "tokenizer.json"))
            wrong += compare(sys.argv[2], plain(unpacked(program, pathlib.Path(sys.argv[2]).resolve(), folder)), plain(published), found)
    sys.exit(wrong > 0)


# The pattern of Mistral's tokenizers from Nemo on, as their published `tokenizer.json` has it.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

main()
