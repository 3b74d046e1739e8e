"""What mamba2_step takes, a decoding step but for the draw, beside its layers and beside operators for its end.

    AIM_KERNELS_LIBRARY=.../libaim_kernels.so python benchmarks/step_gpu.py [PRESET...] [ROWS...]

As layers_gpu.py. "apart": mamba2_layers, ada_ln_norm (one of the two norms) and linear; the embedding is in neither.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernels.abi import FLOAT16, AdaLnNormParams, Library, LinearParams, LinearQuantizedParams, Mamba2StepParams
from kernels_gpu import copy_bandwidth, normal, size
from layers_gpu import HALF, Layers, asked

ROWS = (2, 4, 128)
VOCAB, POSITIONS = 16384, 257


class Apart(Layers):
    """The layers, a norm and the head, an operator each."""

    def __init__(self, library: Library, preset: str, rows: int, int8: bool) -> None:
        super().__init__(library, preset, rows, int8)
        d_model = self.params.d_model
        self.images = max(1, rows // 2)
        self.table = torch.empty(VOCAB, d_model, dtype=HALF, device="cuda").normal_(0, d_model**-0.5)
        self.head, self.scale = self.table, normal(VOCAB).abs()
        if int8:
            self.head = torch.randint(-127, 128, self.table.shape, dtype=torch.int8, device="cuda")
        self.x = torch.zeros(rows, d_model, dtype=HALF, device="cuda")
        self.y = torch.empty(rows, VOCAB, dtype=HALF, device="cuda")
        self.vectors, self.norm = 0.1 * normal(rows, 3, d_model), normal(d_model)
        self.ada_ln = AdaLnNormParams(
            rows=rows, vectors=3, d_model=d_model, gate_index=2, shift_index=0, scale_index=1, dtype=FLOAT16, eps=1e-5,
            hidden=self.x.data_ptr(), residual=self.out.data_ptr(), modulation=self.vectors.data_ptr(),
            weight=self.norm.data_ptr(), x=self.x.data_ptr(), residual_out=self.out.data_ptr(),
        )  # fmt: skip
        of = {"rows": rows, "in_features": d_model, "out_features": VOCAB, "dtype": FLOAT16, "x": self.x.data_ptr(),
              "weight": self.head.data_ptr(), "y": self.y.data_ptr()}  # fmt: skip
        self.product = LinearQuantizedParams(bits=8, scale=self.scale.data_ptr(), **of) if int8 else LinearParams(**of)
        self.bytes += size(self.head)

    def call(self, stream: int) -> None:
        super().call(stream)
        self.library.call("ada_ln_norm", self.ada_ln, stream)
        quantized = isinstance(self.product, LinearQuantizedParams)
        self.library.call("linear_quantized" if quantized else "linear", self.product, stream)


class Step(Apart):
    """All of it as one operator."""

    def __init__(self, library: Library, preset: str, rows: int, int8: bool) -> None:
        super().__init__(library, preset, rows, int8)
        d_model = self.params.d_model
        self.token = torch.randint(0, VOCAB, (self.images,), dtype=torch.int32, device="cuda")
        self.position = torch.arange(1, self.images + 1, dtype=torch.int32, device="cuda")
        self.places = normal(POSITIONS, d_model).to(HALF)
        self.out = torch.empty(rows, VOCAB, device="cuda")
        self.step = Mamba2StepParams(
            layers=self.params, positions=self.images, vocab_size=VOCAB, num_positions=POSITIONS, position_offset=1,
            token=self.token.data_ptr(), position=self.position.data_ptr(), class_embedding=self.vectors.data_ptr(),
            table=self.table.data_ptr(), head=self.head.data_ptr(), head_scale=self.scale.data_ptr(),
            position_table=self.places.data_ptr(), final_modulation=self.vectors.data_ptr(),
            norm_f=self.norm.data_ptr(), norm_final=self.norm.data_ptr(), logits=self.out.data_ptr(),
        )  # fmt: skip
        needed = library.workspace("mamba2_step", self.step)
        self.workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        self.step.layers.workspace, self.step.layers.workspace_size = self.workspace.data_ptr(), needed

    def call(self, stream: int) -> None:
        self.library.call("mamba2_step", self.step, stream)

    def exchange(self) -> bool:
        """As of the layers."""
        used = super().exchange()
        self.step.layers.exchange = self.params.exchange
        return used


def main() -> None:
    bandwidth = max(copy_bandwidth().values())
    sys.stdout.write(f"{torch.cuda.get_device_name()}, copy {bandwidth / 1e12:.2f} TB/s\n")
    library = Library(Path(os.environ["AIM_KERNELS_LIBRARY"]))
    for preset, rows, int8 in asked(ROWS):
        took = []
        for kind in (Layers, Apart, Step):
            case = kind(library, preset, rows, int8)
            took.append(case.microseconds())
            floor = 1e6 * case.bytes / bandwidth
            exchanging = kind is Step and case.exchange()
            if exchanging:
                took.append(case.microseconds())
            del case
            torch.cuda.empty_cache()
        layers, apart, step = took[:3]
        exchanged = f", with an exchange {took[3]:.1f} us" if exchanging else ""
        sys.stdout.write(
            f"AiM-{preset}, {rows} rows, {'int8' if int8 else 'float16'}: layers {layers:.1f} us, apart {apart:.1f}, "
            f"step {step:.1f} ({step / floor:.2f} x floor {floor:.1f}): {step - layers:+.1f} for the ends"
            f"{exchanged}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
