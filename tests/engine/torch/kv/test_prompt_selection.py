"""Selection of a prompt's tokens: what its end attends to stays, in its order."""

from __future__ import annotations

import pytest
import torch

from backbone.checkpoint import load_network
from backbone.network import Network
from engine.torch.kv.ring_cache import Ring
from engine.torch.kv.ring_slots import RingSlot
from engine.window import Pins
from tests.tiny_checkpoints import write_checkpoint

NO_PINS = Pins(num_first=0, last_start=0, last_end=0)
SIZES = {"limit": 160, "block": 8, "residual": 8, "num_sinks": 4, "chunk": 16}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return load_network(write_checkpoint(tmp_path_factory.mktemp("selection"), "qwen3"))


def slot_of(network: Network, keep: int) -> RingSlot:
    return RingSlot(Ring(network.config, bits=(16, 16), **SIZES), sliding=True, keep=keep)


def read(network: Network, slot: RingSlot, tokens: list[int], watched: int) -> None:
    """Read a prompt, the last `watched` of whose tokens say what they attend to."""
    assert slot.selection is not None
    for start in range(0, len(tokens), 16):
        ids = torch.tensor(tokens[start : start + 16])
        assert slot.make_room(len(ids), NO_PINS)
        end = start + len(ids)
        slot.selection.watch(max(0, end - max(start, len(tokens) - watched)))
        network(ids, torch.zeros_like(ids), slot.ring.attend)
        slot.hold(ids.tolist())


def some_tokens(count: int) -> list[int]:
    """Return tokens that differ, so that a key tells whose it is."""
    generator = torch.Generator().manual_seed(3)
    return (4 + torch.randperm(290, generator=generator)[:count]).tolist()


def test_the_attended_keys_stay_in_their_order_and_the_rest_goes(network: Network) -> None:
    slot = slot_of(network, keep=16)
    read(network, slot, some_tokens(100), watched=20)
    ring, selection = slot.ring, slot.selection
    assert selection is not None and selection.weights is not None
    stored = len(ring.blocks) * ring.block
    before = ring.keys.keys(0, ring.places, torch.empty(0)).clone()
    # The weights of each row add up to one for every head and token that watched, sinks apart.
    most = 20 * network.config.num_attention_heads
    assert 0 < float(selection.weights[0].sum()) <= most + 1e-3
    selection.weights = torch.zeros_like(selection.weights)
    wanted = [3, 4, 5, 30, 31, 32]
    selection.weights[:, :, wanted] = 1.0
    selection.select()
    assert selection.is_done and len(ring.blocks) == 2 and ring.dropped == stored - 16
    kept = ring.keys.keys(0, ring.places, torch.empty(0))
    found = [
        next(at for at in range(stored) if torch.equal(before[0, :, at], kept[0, :, i]))
        for i in range(16)
    ]
    assert found == sorted(found) and set(wanted) <= set(found)


def test_few_stored_tokens_all_stay(network: Network) -> None:
    slot = slot_of(network, keep=96)
    read(network, slot, some_tokens(60), watched=20)
    assert slot.selection is not None
    slot.selection.select()
    assert not slot.selection.is_done and slot.ring.dropped == 0


def test_what_was_selected_for_one_prompt_serves_no_other(network: Network) -> None:
    slot, tokens = slot_of(network, keep=16), some_tokens(100)
    read(network, slot, tokens, watched=20)
    assert slot.selection is not None
    slot.selection.select()
    assert slot.begin([*tokens, 7, 8], Pins.whole(102)) == [range(102)]
    assert slot.ring.used == 0 and not slot.selection.is_done


def test_a_copy_holds_the_same(network: Network) -> None:
    slot, other = slot_of(network, keep=0), slot_of(network, keep=0)
    slot = RingSlot(slot.ring, sliding=True)
    tokens = some_tokens(90)
    for start in range(0, 90, 15):
        ids = torch.tensor(tokens[start : start + 15])
        network(ids, torch.zeros_like(ids), slot.ring.attend)
        slot.hold(ids.tolist())
    other.copy(slot)
    ids = torch.tensor([9])
    expected = network(ids, torch.zeros_like(ids), slot.ring.attend)
    found = network(ids, torch.zeros_like(ids), other.ring.attend)
    torch.testing.assert_close(found, expected)
    assert other.stream == slot.stream and other.begin([*tokens, 9], Pins.whole(91)) == [
        range(90, 91)
    ]
