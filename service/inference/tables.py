"""Growing device tensors with reusable slots."""

import torch
from torch import Tensor

INITIAL_SLOTS = 8


class SlotTable:
    """A tensor `(slots, *shape)` on the device whose rows are handed out and taken back.

    Growing replaces the tensor by a larger copy, so a reader that took `rows` before keeps a
    consistent one. Inserting and removing must be serialised by the caller; reading needs no lock.

    Args:
        shape: Shape of one row.
        device: Where the rows live.

    Example:
        >>> table = SlotTable((2,), torch.device("cpu"))
        >>> slot = table.insert(torch.tensor([1.0, 2.0]))
        >>> table.rows[slot].tolist()
        [1.0, 2.0]
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.rows: Tensor = torch.zeros((INITIAL_SLOTS, *shape), device=device)
        self._free = list(reversed(range(INITIAL_SLOTS)))

    def insert(self, row: Tensor) -> int:
        """Copy a row of the table's shape into a free slot and return its index."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self.rows[slot].copy_(row)
        return slot

    def remove(self, slot: int) -> None:
        """Take a slot back; its contents stay until it is handed out again."""
        self._free.append(slot)

    def _grow(self) -> None:
        count = len(self.rows)
        self.rows = torch.cat((self.rows, torch.zeros_like(self.rows)))
        self._free.extend(reversed(range(count, 2 * count)))
