import torch

from service.inference.tables import INITIAL_SLOTS, SlotTable


def test_rows_are_kept_while_the_table_grows() -> None:
    table = SlotTable((2,), torch.device("cpu"))
    before = table.rows
    slots = [table.insert(torch.full((2,), float(i))) for i in range(3 * INITIAL_SLOTS)]
    assert len(set(slots)) == 3 * INITIAL_SLOTS
    assert [table.rows[slot][0].item() for slot in slots] == list(range(3 * INITIAL_SLOTS))
    assert before.shape[0] == INITIAL_SLOTS  # a reader that took it still has it
    assert before[slots[0]][0].item() == 0.0


def test_a_removed_slot_is_handed_out_again() -> None:
    table = SlotTable((1,), torch.device("cpu"))
    slot = table.insert(torch.ones(1))
    table.remove(slot)
    assert table.insert(torch.zeros(1)) == slot
