"""Cache BERT's output for each caption: a run has few captions, and BERT is never adapted."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

MOST = 256
"""Maximum number of cached captions, of at most 0.8 MB each."""

Known = OrderedDict[tuple[Any, ...], Tensor]


def cache_captions(model: nn.Module) -> None:
    """Make the text backbone of a Grounding DINO encode each caption once, in place; it must be frozen."""
    backbone: Any = model.get_submodule("model.text_backbone")
    known: Known = OrderedDict()
    backbone.forward = partial(_read, backbone.forward, known)


def _read(
    read: Any,
    known: Known,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    position_ids: Tensor,
    **kwargs: Any,
) -> BaseModelOutput:
    """See ``BertModel.forward``: input_ids (B, T), padded with 0 at the end, attention_mask (B, 1, T, T).

    Each caption is encoded alone and without its padding, so that the result does not depend on the batch.
    """
    device = input_ids.device.type
    arithmetic = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    rows = []
    for row, ids in enumerate(input_ids.tolist()):
        length = max(1, len(ids) - next((i for i, token in enumerate(reversed(ids)) if token), len(ids)))
        key = (input_ids.device, arithmetic, *ids[:length])
        if key not in known:
            some = (slice(row, row + 1), slice(length))
            with torch.no_grad():
                known[key] = read(
                    input_ids[some],
                    attention_mask[row : row + 1, :, :length, :length],
                    token_type_ids[some],
                    position_ids[some],
                    **kwargs,
                )[0][0]
            if len(known) > MOST:
                known.popitem(last=False)
        known.move_to_end(key)
        rows.append(known[key])
    states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    missing = input_ids.shape[1] - states.shape[1]
    return BaseModelOutput(last_hidden_state=nn.functional.pad(states, (0, 0, 0, missing)))
