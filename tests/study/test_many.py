"""Closed forms one after another, and one of them undone, as products of their matrices."""

from __future__ import annotations

import torch

from erase_lib import EraseConfig, erase
from erase_lib.kv import kv_weights
from erase_lib.measure import World
from erase_lib.study import chained, change, changed, spread, undone


def of(pipe, target, **values):
    given = {"method": "uce", "nearest": 6, "lam": 1.0, "ridge": 0.05} | values
    return erase(pipe, EraseConfig([target], **given))


def together(tensors):
    return torch.cat([t.double() for t in tensors.values()])


def test_the_second_edits_what_the_first_has_left(tiny):
    first, second = of(tiny, "church"), of(tiny, "dog")
    both = chained(tiny, [first, second])
    assert both.config.targets == ("church", "dog")
    names = first.tensors.keys()
    with first.applied(tiny):  # as anybody would do it: the second on the edited model
        again = of(tiny, "dog")
    again = {name: again.tensors[name] for name in names}
    torch.testing.assert_close(together(both.tensors), together(again))
    turned = chained(tiny, [second, first])
    apart = torch.dist(together(both.tensors), together(turned.tensors))
    assert apart > 1e-3 * together(both.tensors).norm()


def test_one_of_three_is_undone_wherever_it_stands(tiny):
    t = [change(tiny, of(tiny, word)) for word in ("church", "dog", "rose")]
    whole = t[0] @ t[1] @ t[2]
    torch.testing.assert_close(undone(whole, t[2]), t[0] @ t[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(undone(whole, t[0], t[1:]), t[1] @ t[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(undone(whole, t[1], t[2:]), t[0] @ t[2], rtol=0, atol=1e-6)
    # of a middle one, without those that came later, it is not
    assert torch.dist(undone(whole, t[1]), t[0] @ t[2]) > 1e-3
    back = changed(tiny, undone(t[0], t[0]), ["church"])
    torch.testing.assert_close(together(back.tensors), together(kv_weights(tiny.unet)))


def test_what_is_no_matrix_is_refused(tiny, refused):
    config = EraseConfig.from_profile("smoke", targets=["church"], method="esd", steps=1)
    trained = erase(tiny, config, [])
    refused(change, tiny, trained, says="esd matrix uce")
    church = of(tiny, "church")
    refused(chained, tiny, [church, church], says="church twice")


def test_what_is_asked_is_spread_over_each_list(tiny):
    world = World(tiny)
    targets, kept = world.words[:30], world.words[100:140]
    asked = spread(world, targets, kept, 12)
    assert asked["group"].value_counts().to_dict() == {"target": 12, "near": 12, "far": 12}
    assert not asked.duplicated(["prompt", "seed"]).any() and asked["seed"].is_unique
    told = asked.groupby("group")["concept"].agg(list)
    assert told["target"] == [targets[i * 30 // 12] for i in range(12)]
    assert set(told["far"]) <= set(kept) and len(set(told["far"])) == 12
    assert not set(told["near"]) & {*targets, *kept}
    single = spread(world, targets[:1], kept, 8).query("group == 'target'")
    assert set(single["concept"]) == {targets[0]} and single["style"].nunique() == 4
