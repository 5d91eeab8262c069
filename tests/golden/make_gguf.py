#!/usr/bin/env python3
"""Random blocks of every type of GGUF files that is computed with, and their numbers by the reference of the `gguf` package:

    python3 tests/golden/make_gguf.py > tests/golden/gguf_blocks.json

Numbers are written as the bits of float32. Scales are finite halves.
"""
import json

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# The places of the halves in a block.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0],
}

random = np.random.default_rng(11)
found = {}
for kind, places in HALVES.items():
    _, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (2, size), dtype=np.uint8)
    for block in blocks:
        for place in places:
            block[place : place + 2] = np.float16(random.normal()).reshape(1).view(np.uint8)
    numbers = dequantize(blocks, kind).astype(np.float32).ravel()
    found[str(int(kind))] = {"blocks": blocks.tobytes().hex(), "bits": numbers.view(np.uint32).tolist()}
print(json.dumps(found, separators=(",", ":")))
