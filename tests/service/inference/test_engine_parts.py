import numpy as np
import torch

from backbones.info import LoadedBackbone
from service.inference.bank import BankEntry
from service.inference.engine_parts import token_cost
from service.inference.rows import Row


def test_a_row_costs_its_tokens(loaded: LoadedBackbone) -> None:
    """The tiny backbone makes 4 patches of 32 x 32 pixels, and has one prefix token."""

    def row(num_prompt_tokens: int) -> Row:
        prompt = torch.zeros(2, num_prompt_tokens, 192) if num_prompt_tokens else None
        entry = BankEntry("x", ("a", "b"), prompt, torch.zeros(2, 192), torch.zeros(2))
        return Row(np.zeros((3, 32, 32), np.uint8), entry, 0.0, 0.0, "a")

    cost = token_cost(loaded.info)
    assert cost(row(0)) == 1
    assert cost(row(10)) == 3
