"""12_speed_and_memory: counting evaluations, and how far the student walks away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from course.exercise import check
from erase_lib import EraseConfig
from tools.benchmarks.cost import erasing_evaluations


def exercise1(evaluations: Any) -> None:
    """How many evaluations does a step of the published code need with 20 sampling steps?"""
    twenty = {"targets": ["church"], "sampling_steps": 20, "search": "random"}  # no step of π's
    published = EraseConfig.from_profile("paper", **twenty)
    truth = erasing_evaluations("eap", published) / published.steps
    check(
        evaluations,
        (lambda a: a == a + 0, "a number is asked for"),
        (lambda a: abs(a - 111 * 20 / 50) > 1, "not all of it shrinks: the 9 at the end stay"),
        (lambda a: a != 40, "that is the sampling alone: the losses ask the UNet too"),
        (lambda a: a != 29, "twice ten steps, but with guidance each is two evaluations"),
        (lambda a: a != 89, "it samples down to a *random* timestep: on average half of the way"),
        (
            lambda a: abs(a - 2 * truth) > 4,
            "that is an update: one step of θ' and one of the search",
        ),
        (
            lambda a: abs(a - truth) <= 2.5,
            lambda a: f"{a:g} is too {'few' if a < truth else 'many'}",
        ),
        right=f"counted exactly {truth:g}, for the code ends its sampling a step late. Fewer"
        " steps save a lot, but what they save on is how well the latent is drawn.",
    )


def exercise2(most: Any, published: EraseConfig) -> None:
    """Which of four settings of the published schedule saves most when it alone is exchanged?"""
    changes: dict[str, Any] = {"schedule": "replay", "search": "random", "preserve_at": "target"}
    changes |= {"sampling_steps": 16}

    def cost(**changed: Any) -> float:
        return erasing_evaluations("eap", replace(published, **changed)) / published.steps

    left = {name: cost(**{name: value}) for name, value in changes.items()}
    least = min(left, key=lambda name: left[name])
    check(
        most,
        (lambda a: a in changes, f"choose one of {', '.join(changes)}"),
        (
            lambda a: a != "preserve_at" or least == a,
            "alone it saves nothing: the published schedule draws latents anew either way. It pays"
            " with replay, where those of the preserved concepts are what is left to draw",
        ),
        (
            lambda a: a == least,
            lambda a: (
                f"{a} alone leaves {left[a]:.0f} an update; one of the others leaves"
                f" {left[least]:.0f}"
            ),
        ),
        right="alone they leave "
        + ", ".join(f"{k} {v:.0f}" for k, v in left.items())
        + f"; together {cost(**changes):.0f}."
        + " But fewer sampling steps draw other latents, a replay only does not draw them twice:"
        " what is saved and what is given up are two questions.",
    )


def exercise3(drift: Any, ours: Tensor, theirs: Tensor, truth: Tensor) -> None:
    """Write ‖z − z*‖ / ‖z*‖ at each step of two trajectories `(steps, channels, height, width)`.

    `truth` is what it should give, `(steps,)`.
    """
    gap = (ours - theirs).flatten(1).norm(dim=1)

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-3, atol=1e-7)

    check(
        drift,
        (lambda a: a.shape != (), "one number for all steps: keep the first dimension"),
        (lambda a: a.shape == truth.shape, f"the shape must be {tuple(truth.shape)}, one a step"),
        (lambda a: not same(a, gap), "divide by the norm of theirs"),
        (lambda a: not same(a, truth**2), "these are the squares: take the root"),
        (
            lambda a: not same(a, gap / ours.flatten(1).norm(dim=1)) or same(a, truth),
            "a share of the teacher's latent is asked for, not of the student's",
        ),
        (lambda a: same(a, truth), "not ‖z − z*‖ / ‖z*‖ at each step"),
        given=(ours, theirs),
        right=f"from 0 (the same noise) to {truth[-1]:.2f}. The student is taught along a walk that"
        " it does not walk any more; whether that matters is what the table above measures.",
    )
