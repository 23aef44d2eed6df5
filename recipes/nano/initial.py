"""Where nano's training starts: attention heads that already look back, match, choose and go on.

From small random weights a network of this size needs many millions of tokens before it finds out that
answers stand in the prompt: what finds them is a chain of heads, none of which helps without the others, and
biases start at zero, where a head that goes by position has no gradient. So the chain is put there as a start
(induction heads: Olsson et al. 2022; initial weights that copy a solution's structure: Trockman and Kolter
2023), and training makes of it what it needs. Choosing one of several tools by its description comes within
half a million tokens of exercises so; from random weights it had not come after twenty million tokens.

The hidden state is divided for that: the embedding of the token, and four registers of one head's size, each
for a code (a fixed projection of an embedding) of another token:

- BEFORE: the token before this one
- ROW: the first token of this row; a row is a tool of a list, or a message
- VOTE: the first token of the tool row that holds a token equal to this one
- NEXT: what may come next; the last layer turns it into an embedding, which is what the output layer reads

What the layers do, by key/value group (the second group's other heads match equal tokens, and write nothing):

====== =====================================  =======================================
layer  first group of heads                   second group
====== =====================================  =======================================
0      the token before -> BEFORE, and the one
       before that -> VOTE, which is free as yet
1      what followed the same two -> NEXT
2      the first token of the row -> ROW
3      what followed the same one -> NEXT     an equal token's ROW in a tool -> VOTE
4                                             VOTE of this message's tokens -> NEXT
5      what followed the same one -> NEXT     the parameter of tool NEXT -> NEXT
7      NEXT -> embedding
====== =====================================  =======================================
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import GlmForCausalLM

from chatglm3.config import ModelConfig
from chatglm3.tokenizer import Tokenizer

_EMBEDDING = 0.6
"""Standard deviation of the embeddings."""
_PULLS = (49.0, 30.0, 20.0, 10.0)
"""How strongly each rotary frequency, from the fastest, draws a head to its place: query times key."""
_FAST = 10
"""Dimensions of a head that the rotary embedding turns too fast to match anything far away by them."""
_TWO_BACK = 0.6
"""Weight of the token before the token before, where two tokens are matched."""


@torch.no_grad()
def wire(model: GlmForCausalLM, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Overwrite a new network's embeddings and attention weights; draws from torch's random stream."""
    wiring = _Wiring(model, config, tokenizer)
    for index in range(config.num_layers):
        wiring.layer(index)


class _Heads:
    """One layer's attention weights while they are put together; per head and group, not yet flattened."""

    def __init__(self, config: ModelConfig) -> None:
        groups, dim, width = config.num_kv_heads, config.head_dim, config.hidden_size
        self.queries = torch.zeros(config.num_heads, dim, width)
        self.keys = torch.zeros(groups, dim, width)
        self.values = torch.zeros(groups, dim, width)
        self.written = torch.zeros(width, config.num_heads, dim)
        self.query_bias = torch.zeros(config.num_heads, dim)
        self.key_bias = torch.zeros(groups, dim)
        rotary = dim // 2
        self.frequencies = 10000.0 ** (-torch.arange(0, rotary, 2) / rotary)

    def look_back(self, heads: Iterable[int], by: float, group: int) -> None:
        """Draw heads to the place `by` tokens before their own, whatever stands there."""
        for pair, pull in enumerate(_PULLS):
            self.key_bias[group, 2 * pair] = pull**0.5
            for head in heads:
                angle = self.frequencies[pair] * by
                self.query_bias[head, 2 * pair] = pull**0.5 * torch.cos(angle)
                self.query_bias[head, 2 * pair + 1] = -(pull**0.5) * torch.sin(angle)

    def prefer_near(self, heads: Iterable[int], group: int, pulls: dict[int, tuple[float, float]]) -> None:
        """pulls: rotary frequency -> (query's part, key's part); negative to prefer what is far."""
        for pair, (query, key) in pulls.items():
            self.key_bias[group, 2 * pair] = key
            for head in heads:
                self.query_bias[head, 2 * pair] = query


class _Wiring:
    def __init__(self, model: GlmForCausalLM, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.model, self.config = model, config
        dim, width = config.head_dim, config.hidden_size
        own = width - 4 * dim  # dimensions of the embedding itself; the last two are marks
        self.key_mark, self.row_mark = own - 2, own - 1
        self.before, self.row, self.vote, self.next = range(own, width, dim)
        self.code = torch.zeros(dim, width)
        self.code[:, : own - 2] = torch.linalg.qr(torch.randn(own - 2, dim))[0].T
        self.code[dim - 2 :] = 0
        self.code[dim - 2, self.key_mark] = self.code[dim - 1, self.row_mark] = 1
        slow = torch.zeros(dim)
        slow[_FAST : dim - 2] = 1
        self.match = torch.diag(slow) * (dim / slow.sum()) ** 0.25
        self.other = torch.zeros(dim, dim)  # the same dimensions, turned: for a second token to be matched
        turned = torch.linalg.qr(torch.randn(dim - 2 - _FAST, dim - 2 - _FAST))[0]
        self.other[_FAST : dim - 2, _FAST : dim - 2] = turned @ self.match[_FAST : dim - 2, _FAST : dim - 2]
        self._embed(tokenizer)
        blank = self.code @ model.model.embed_tokens.weight[tokenizer.encode("\n")[0]]
        self.blank = blank / blank.norm()  # the first token of every message

    def _embed(self, tokenizer: Tokenizer) -> None:
        embedding = self.model.model.embed_tokens.weight
        embedding.normal_(0, _EMBEDDING)
        embedding[:, self.key_mark :] *= 0.05
        self.model.model.norm.weight.fill_(0.3)
        pieces = [tokenizer.id_to_piece(i).replace("▁", " ") for i in range(tokenizer.vocab_size)]
        roles = [tokenizer.special_ids[f"<|{r}|>"] for r in ("system", "user", "assistant", "observation")]
        rows = [i for i, piece in enumerate(pieces) if piece.endswith('    {\n        "name": "')]
        indent = " " * 16
        before_keys = (
            f'            {{\n{indent}"name": "',
            f'"properties": {{\n{indent}"',
            f'}},\n{indent}"',
        )
        keys = [i for i, piece in enumerate(pieces) if piece.endswith(before_keys) or piece == "tool_call("]
        strength = _EMBEDDING * (self.row_mark + 1) ** 0.5
        embedding[rows, self.row_mark] += strength
        embedding[roles, self.row_mark] += 1.5 * strength
        embedding[keys, self.key_mark] += strength
        for token in (tokenizer.special_ids["[gMASK]"], tokenizer.special_ids["sop"]):
            embedding[token] *= 0.1  # heads rest there: it must say nothing
            embedding[token, self.next - 1] = 8.0

    def _read(self, register: int) -> Tensor:
        dim, width = self.config.head_dim, self.config.hidden_size
        return torch.eye(width)[register : register + dim]

    def layer(self, index: int) -> None:
        """Put layer `index` together and write its weights."""
        c = self.config
        share = c.num_heads // c.num_kv_heads
        first, second = list(range(share)), list(range(share, c.num_heads))
        h = _Heads(c)
        h.values[:] = self.code
        h.keys[1] = self.match @ self.code
        h.queries[second] = 3.5 * self.match @ self.code
        if index % 2 == 0:
            h.look_back(first, 1.0, 0)
            h.written[:, first] = 0.05 * self._read(self.before).T[:, None]
        elif index < c.num_layers - 1:
            h.keys[0] = self.match @ self._read(self.before)
            h.queries[first] = 1.5 * self.match @ self.code
            h.written[:, first] = 0.2 * self._read(self.next).T[:, None]
        special = {
            0: self._before,
            1: self._two,
            2: self._rows,
            3: self._votes,
            4: self._gather,
            5: self._key,
        }
        if index in special:
            special[index](h, first, second)
        elif index == c.num_layers - 1:
            h.look_back(first, 0.0, 0)
            h.values[0] = self._read(self.next)
            h.written[:, first] = 0.5 * self.code.T[:, None]
        self._store(index, h)

    def _before(self, h: _Heads, first: list[int], second: list[int]) -> None:
        *near, last = first
        h.look_back([last], 2.0, 0)
        h.written[:, near] = 0.45 * self._read(self.before).T[:, None]
        h.written[:, last] = 0.6 * self._read(self.vote).T  # VOTE is free until layer 3

    def _two(self, h: _Heads, first: list[int], second: list[int]) -> None:
        h.keys[0] += _TWO_BACK * self.other @ self._read(self.vote)
        h.queries[first] += 1.5 * _TWO_BACK * self.other @ self._read(self.before)

    def _rows(self, h: _Heads, first: list[int], second: list[int]) -> None:
        mark = self.config.head_dim - 1
        h.query_bias.zero_()
        h.key_bias.zero_()
        h.prefer_near(first, 0, {2: (8, 12), 3: (8, 5), 4: (10, 7), 5: (12, 10)})
        h.keys[0, mark] = self._read(self.before)[mark]
        h.query_bias[first, mark] = 30
        h.written[:, first] = 0.3 * self._read(self.row).T[:, None]

    def _votes(self, h: _Heads, first: list[int], second: list[int]) -> None:
        mark = self.config.head_dim - 1
        h.values[1] = self._read(self.row)
        h.keys[1, mark] = -self.blank @ self._read(self.row)  # not in messages: those equal themselves
        h.query_bias[second, mark] = 8
        h.prefer_near(second, 1, {2: (-2, 2)})
        h.written[:, second] = 0.5 * self._read(self.vote).T[:, None]

    def _gather(self, h: _Heads, first: list[int], second: list[int]) -> None:
        mark = self.config.head_dim - 1
        h.queries[second] *= 0.1
        h.keys[1] *= 0.1
        h.keys[1, mark] = self.blank @ self._read(self.row)  # only in messages
        h.query_bias[second, mark] = 20
        reaches = ((4, 6, 5), (5 / 3, 4, 2.5), (0, 3, 5))
        for head, (shortest, short, long) in zip(second, reaches, strict=True):
            h.prefer_near([head], 1, {2: (shortest, 3), 3: (short, 5), 4: (long, 4)})
        others = torch.eye(self.config.head_dim) - torch.outer(self.blank, self.blank)
        h.values[1] = others @ self._read(self.vote)
        h.written[:, second] = 0.5 * self._read(self.next).T[:, None]

    def _key(self, h: _Heads, first: list[int], second: list[int]) -> None:
        mark = self.config.head_dim - 1
        h.keys[1] = self.match @ self._read(self.row)
        h.keys[1, mark] = self._read(self.before)[mark - 1]
        h.queries[second] = 1.5 * self.match @ self._read(self.next)
        h.queries[second, mark, self.key_mark] = 4
        h.written[:, second] = 0.4 * self._read(self.next).T[:, None]

    def _store(self, index: int, h: _Heads) -> None:
        """Write the layer's weights, with a little noise: heads of a group are to become different."""
        layer, width = self.model.model.layers[index], self.config.hidden_size
        attention = layer.self_attn

        def noisy(weights: Tensor) -> Tensor:
            return (weights + 0.1 / width**0.5 * torch.randn(weights.shape)).flatten(0, 1)

        attention.q_proj.weight.copy_(noisy(h.queries))
        attention.k_proj.weight.copy_(noisy(h.keys))
        attention.v_proj.weight.copy_(noisy(h.values))
        written = h.written.flatten(1)
        attention.o_proj.weight.copy_(written + 0.01 * torch.randn(written.shape))
        attention.q_proj.bias.copy_(h.query_bias.flatten())
        attention.k_proj.bias.copy_(h.key_bias.flatten())
        attention.v_proj.bias.zero_()
        layer.mlp.down_proj.weight.mul_(0.5)
