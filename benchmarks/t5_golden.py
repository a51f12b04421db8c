"""Write tests/golden/t5_tiny.npz: results of transformers for tiny random T5 encoders.

    pip install '.[parity]'
    python benchmarks/t5_golden.py

The file holds the weights, token ids of several lengths with padding, and the states.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "t5_tiny.npz"
COMMON = {"vocab_size": 64, "d_model": 24, "d_kv": 8, "num_heads": 2, "d_ff": 40, "num_layers": 2}
FORMS = {
    "flan": {"feed_forward_proj": "gated-gelu"},
    "original": {"feed_forward_proj": "relu", "relative_attention_max_distance": 20},
}


def main() -> None:
    arrays = {}
    for name, form in FORMS.items():
        torch.manual_seed(7)
        config = transformers.T5Config(**COMMON, **form)
        model = transformers.T5EncoderModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases too, and no small values
                parameter.copy_(torch.randn_like(parameter) * 0.3)
                parameter.copy_(parameter.to(torch.float16).to(torch.float32))
            ids = torch.randint(3, 64, (3, 150))
            mask = torch.ones_like(ids)
            for row, length in enumerate((150, 41, 1)):
                ids[row, length:], mask[row, length:] = 0, 0
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = {**COMMON, **form, "model_type": "t5"}
        arrays[f"{name}/config"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
        arrays |= {
            f"{name}/state/{key}": value.numpy().astype(np.float16)
            for key, value in model.state_dict().items()
            if key != "encoder.embed_tokens.weight"  # the same tensor as shared.weight
        }
        arrays |= {f"{name}/ids": ids.numpy().astype(np.uint8), f"{name}/mask": mask.numpy() > 0}
        arrays[f"{name}/states"] = states[mask > 0].numpy()  # of the tokens only
    np.savez_compressed(TARGET, **arrays)
    print(TARGET, TARGET.stat().st_size, "bytes, transformers", transformers.__version__)


if __name__ == "__main__":
    main()
