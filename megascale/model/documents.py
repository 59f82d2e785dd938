"""Attention within documents: each document by itself, without a mask.

A mask of S x S would cost every layer its memory and all the work of attention across documents,
which is then thrown away. Documents lie one after another, so attention takes them one at a time:
the work is the sum of their squared lengths, the memory that of their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Documents:
    """How a micro-batch is cut into documents; none reaches over the end of its sequence.

    Attributes:
        lengths: tokens of each document, sequence after sequence.
    """

    lengths: tuple[int, ...]

    @classmethod
    def of(cls, doc_ids: Tensor) -> Self:
        """The documents of `[B, S]` numbers: one begins at each change of number.

        Reads the numbers on the host; a tensor on another device is waited for.
        """
        numbers = doc_ids.cpu().numpy()
        begins = np.ones(numbers.shape, dtype=bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        starts = np.append(np.flatnonzero(begins), numbers.size)
        return cls(tuple(np.diff(starts).tolist()))


def attend(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, *, grouped: bool
) -> Tensor:
    """Causal attention within each sequence, or within each document.

    Args:
        query: `[B, S, heads, head_dim]`.
        key, value: `[B, S, key-value heads, head_dim]`.
        documents: None for whole sequences.
        grouped: whether several query heads share a key-value head.

    Returns:
        `[B, S, heads, head_dim]`.
    """
    if documents is None:
        return _causal(query, key, value, grouped)
    return _attend_each(query, key, value, documents, grouped)


# Lengths change with every micro-batch: compiled, each would be a program of its own.
@torch.compiler.disable
def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, grouped: bool
) -> Tensor:
    queries, keys, values = (
        tensor.flatten(0, 1).unsqueeze(0).split(documents.lengths, dim=1)
        for tensor in (query, key, value)
    )
    attended = [_causal(q, k, v, grouped) for q, k, v in zip(queries, keys, values, strict=True)]
    return torch.cat(attended, dim=1).view_as(query)


def _causal(query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> Tensor:
    return F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=grouped,
    ).transpose(1, 2)
