"""The same network as an OpenVINO model: `python -m benchmarks.peers.openvino_file FOLDER OUT`.

FOLDER is what `our_file` wrote. The network is put together from OpenVINO's own operations, in the form that
its compression tool gives a language model: the layers in int4 with a scale for 128 columns, embedding and
output layer in int8 with the same scales, keys and values in states that the device keeps. Every weight is
exactly that of the folder.

Inputs: `ids` [sequences, tokens], `positions` [tokens], and `rows` [sequences], which of the sequences before
each one goes on with. Output: the logits of the last tokens, [sequences, vocabulary].

Needs the package `openvino`, not PyTorch; the whole model is in memory until it is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Node
from openvino import opset13 as op
from openvino.op import Constant

from benchmarks.peers import stored
from benchmarks.peers.stored import Stored

GROUP = 128
"""Columns that share a scale."""


class Network:
    """The graph, and what has to be handed over with it."""

    def __init__(self, source: Stored) -> None:
        self.source, self.config = source, source.config
        self.states: list[Node] = []
        self.shared_memory: list[NDArray[np.uint8]] = []  # which OpenVINO reads without holding it
        self.ids = op.parameter([-1, -1], np.int64, name="ids")
        self.positions = op.parameter([-1], np.int64, name="positions")
        self.rows = op.parameter([-1], np.int32, name="rows")
        self.sequences = op.gather(op.shape_of(self.ids), _ints([0]), _ints(0))  # [1]
        angles = op.unsqueeze(op.convert(self.positions, np.float32), _ints(1))
        exponents = np.arange(0, self.config.rotary_dim, 2, dtype=np.float32) / self.config.rotary_dim
        angles = op.multiply(angles, op.constant((1 / self.config.rope_theta**exponents)[None]))
        angles = op.unsqueeze(op.unsqueeze(angles, _ints(0)), _ints([2, 4]))  # [1, tokens, 1, pairs, 1]
        self.cos, self.sin = op.cos(angles), op.sin(angles)
        self.length = op.add(op.gather(self.positions, _ints([-1]), _ints(0)), _ints(1))  # [1], of all keys
        keys = op.range(_ints(0), op.squeeze(self.length, _ints(0)), _ints(1), output_type="i64")
        seen = op.less_equal(op.unsqueeze(keys, _ints(0)), op.unsqueeze(self.positions, _ints(1)))
        mask = op.select(seen, _floats(0), _floats(float(np.finfo(np.float32).min)))
        self.mask = op.unsqueeze(mask, _ints([0, 1]))  # [1, 1, tokens, length]

    def model(self) -> ov.Model:
        hidden = self.embedded()
        for i in range(self.config.num_layers):
            name = stored.LAYER.format(i)
            normed = self.normed(hidden, name + stored.ATTENTION_NORM)
            attended = self.attention(normed, i)
            hidden = op.add(hidden, self.linear(attended, name + stored.ATTENTION_OUT))
            normed = self.normed(hidden, name + stored.FFN_NORM)
            gate, up = op.split(self.linear(normed, name + stored.GATE_UP), _ints(2), 2).outputs()
            hidden = op.add(hidden, self.linear(op.multiply(op.swish(gate), up), name + stored.DOWN))
        last = op.gather(self.normed(hidden, stored.FINAL_NORM), _ints(-1), _ints(1))
        logits = op.result(self.linear(last, stored.OUTPUT), name="logits")
        return ov.Model([logits], self.states, [self.ids, self.positions, self.rows], "glm")

    def embedded(self) -> Node:
        """[sequences, tokens, hidden]; only the rows that are looked up are multiplied by their scales."""
        codes, scales = self.weight(stored.EMBEDDING)
        looked_up = op.convert(op.gather(codes, self.ids, _ints(0)), np.float32)
        scaled = op.multiply(looked_up, op.convert(op.gather(scales, self.ids, _ints(0)), np.float32))
        return op.reshape(scaled, _ints([0, 0, -1]), special_zero=True)

    def weight(self, module: str) -> tuple[Node, Node]:
        """Constants: codes [rows, groups, 128] in 4 or 8 bits, and scales [rows, groups, 1] in float16."""
        rows, columns = self.source.shape(module)
        if columns % GROUP:
            raise ValueError(f"{module} has {columns} columns, which are no groups of {GROUP}")
        shape = [rows, columns // GROUP, GROUP]
        if module in (stored.EMBEDDING, stored.OUTPUT):
            codes = op.constant(self.source.codes(module).reshape(shape))
        else:  # in two's complement
            nibbles = self.source.packed(module) ^ np.uint8(0x88)
            self.shared_memory.append(nibbles)
            codes = Constant(ov.Tensor(nibbles, ov.Shape(shape), ov.Type.i4))
        scales = self.source.scales(module)[:, :: GROUP // 32, None]
        return codes, op.constant(scales.astype(np.float16))

    def linear(self, x: Node, module: str) -> Node:
        codes, scales = self.weight(module)
        grouped = op.multiply(op.convert(codes, np.float16), scales)
        weight = op.reshape(grouped, _ints(list(self.source.shape(module))), special_zero=False)
        return op.matmul(x, op.convert(weight, np.float32), False, True)

    def normed(self, x: Node, module: str) -> Node:
        mean = op.reduce_mean(op.power(x, _floats(2)), _ints([-1]), keep_dims=True)
        scaled = op.multiply(x, op.divide(_floats(1), op.sqrt(op.add(mean, _floats(self.config.norm_eps)))))
        return op.multiply(scaled, op.constant(self.source.floats(f"{module}.weight")))

    def rotated(self, x: Node) -> Node:
        """The first half of each head, in adjacent pairs. x: [sequences, tokens, heads, head_dim]."""
        half = self.config.rotary_dim
        turned, rest = op.variadic_split(x, _ints(3), _ints([half, self.config.head_dim - half])).outputs()
        pairs = op.reshape(turned, _ints([0, 0, 0, half // 2, 2]), special_zero=True)
        a, b = op.split(pairs, _ints(4), 2).outputs()
        first = op.subtract(op.multiply(a, self.cos), op.multiply(b, self.sin))
        second = op.add(op.multiply(b, self.cos), op.multiply(a, self.sin))
        turned = op.reshape(op.concat([first, second], 4), _ints([0, 0, 0, half]), special_zero=True)
        return op.concat([turned, rest], 3)

    def attention(self, normed: Node, layer: int) -> Node:
        config, name = self.config, stored.LAYER.format(layer) + stored.QKV
        qkv = op.add(self.linear(normed, name), op.constant(self.source.floats(f"{name}.bias")))
        heads = config.num_heads + 2 * config.num_kv_heads
        qkv = op.reshape(qkv, _ints([0, 0, heads, config.head_dim]), special_zero=True)
        sizes = _ints([config.num_heads, config.num_kv_heads, config.num_kv_heads])
        q, k, v = op.variadic_split(qkv, _ints(2), sizes).outputs()
        swap = _ints([0, 2, 1, 3])  # to [sequences, heads, tokens, head_dim]
        q, k, v = (op.transpose(x, swap) for x in (self.rotated(q), self.rotated(k), v))
        k, v = self.kept(k, f"key.{layer}"), self.kept(v, f"value.{layer}")
        attended = op.scaled_dot_product_attention(q, self.shared(k), self.shared(v), self.mask)
        return op.reshape(op.transpose(attended, swap), _ints([0, 0, -1]), special_zero=True)

    def kept(self, new: Node, name: str) -> Node:
        """What the state holds, and `new` behind it; both stay in the state."""
        width, heads = self.config.head_dim, self.config.num_kv_heads
        empty = op.concat([self.sequences, _ints([heads, 0, width])], 0)
        before = op.read_value(op.broadcast(_floats(0), empty), name, np.float32, [-1, heads, -1, width])
        all_of_it = op.concat([op.gather(before, self.rows, _ints(0)), new], 2)
        self.states.append(op.assign(all_of_it, name))
        return all_of_it

    def shared(self, x: Node) -> Node:
        """Each key or value head for all its query heads."""
        config = self.config
        group = config.num_heads // config.num_kv_heads
        sizes = [self.sequences, _ints([config.num_kv_heads, group]), self.length, _ints([config.head_dim])]
        wide = op.broadcast(op.unsqueeze(x, _ints(2)), op.concat(sizes, 0), broadcast_spec="BIDIRECTIONAL")
        return op.reshape(wide, _ints([0, config.num_heads, -1, config.head_dim]), special_zero=True)


def _ints(value: int | list[int]) -> Node:
    return op.constant(np.array(value, np.int64))


def _floats(value: float) -> Node:
    return op.constant(np.array(value, np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description="The folder of `our_file` as an OpenVINO model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir()
    network = Network(Stored(args.folder))
    ov.save_model(network.model(), args.out / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
