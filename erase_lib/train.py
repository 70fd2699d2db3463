"""The one training loop: ESD, ESD + neutral, CA, EAP and AGE are its settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from erase_lib.bank import Bank, fill_bank, sample_to
from erase_lib.closed_form import erase_closed_form
from erase_lib.config import CLOSED_FORMS, METHODS, EraseConfig
from erase_lib.diffusion import predict_clean
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.files import uninterrupted
from erase_lib.kv import KVPenalty, kv_weights
from erase_lib.models import (
    Pipeline,
    fingerprint,
    in_place,
    precision,
    recomputing,
    trained_names,
)
from erase_lib.search import Choice, Search, new_search
from erase_lib.text import Prompts, candidates, embed, encode_prompts

# a search of one's own, from the config, the words to search and their embeddings
NewSearch: TypeAlias = Callable[[EraseConfig, list[str], Prompts, Pipeline], Search]
# given the run before its first update and after each
Callback: TypeAlias = Callable[["Run"], object]


# the prompts `(n, tokens, dim)` of numbers `(n,)`; L1's goal at z, t, for these and their ẑ₀
Numbered: TypeAlias = Callable[[Tensor], Tensor]
Goal: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Run:
    """The state of one run: student, embeddings, banks, searches; `update` is one step of it.

    θ' and the history change together, once an update and only from finite gradients: at any
    moment the student is finite and what the history says, so no copy of it need be kept.
    """

    def __init__(self, pipe: Pipeline, config: EraseConfig, search: NewSearch = new_search) -> None:
        self.pipe, self.config, c = pipe, config, config
        self.method, self.base = METHODS[c.method], fingerprint(pipe.unet)
        self.g = torch.Generator().manual_seed(c.seed)
        names = trained_names(pipe.unet, c.train_method)
        copies = {name: pipe.unet.get_parameter(name).detach().float().clone() for name in names}
        self.student = {name: nn.Parameter(weight) for name, weight in copies.items()}
        self.optimiser = torch.optim.Adam(self.student.values(), lr=c.lr)
        self.empty = encode_prompts(pipe, [""])
        self.targets = [embed(pipe, t, c.styles, t) for t in c.targets]
        pairs = zip(c.become, c.targets, strict=True)
        self.become = [embed(pipe, word, c.styles, target) for word, target in pairs]
        self.searches = [self.new_search(words, search) for words in self.candidates()]
        original = kv_weights(pipe.unet) if c.lam_kv else {}
        self.penalties = [
            KVPenalty(original, s.embeddings[:].transpose(0, 1).flatten(1, 2))
            if original and s
            else None
            for s in self.searches
        ]
        self.banks: dict[str, Bank] = {}
        self.evaluations, self.history = 0, list[dict[str, Any]]()

    def candidates(self) -> list[list[str]]:
        """The words that may be preserved for each target; none for a method that keeps nothing."""
        c, keeps = self.config, self.method.keeps
        if keeps == "searched" and c.search != "fixed":
            return candidates(self.pipe, c)
        words = {"nothing": [], "neutral": [c.neutral], "searched": list(c.preserved)}
        return [[word] if keeps == "anchor" else words[keeps] for word in c.become]

    def new_search(self, words: list[str], new: NewSearch) -> Search | None:
        """What chooses among the words; where there is one, there is nothing to search."""
        if not words:
            return None
        every = Prompts(self.pipe, words, self.config.styles)
        return new(self.config, words, every, self.pipe) if len(words) > 1 else Search(words, every)

    # -- where (z_t, t) come from ------------------------------------------------------------------

    def latents(
        self, name: str, of: Tensor, prompts: Numbered, fresh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """z_t, t of the prompts numbered `of (n,)`, and L1's goal where it is known.

        replay: from the teacher's bank `name` · published: sampled anew by the student, for the
        embeddings `fresh (n, tokens, dim)`.
        """
        c = self.config
        if c.schedule == "replay":
            return self.bank(name, of, prompts).draw(of, self.g)
        with in_place(self.pipe.unet, self.student):
            z, t, spent = sample_to(
                self.pipe, fresh.detach(), self.empty, c.sampling_steps, c.guidance_scale, self.g
            )
        self.evaluations += spent
        return z, t, None

    def bank(self, name: str, of: Tensor, prompts: Numbered, goal: Goal | None = None) -> Bank:
        """The teacher's trajectories of (at least) the prompts `of`, each drawn once; with `goal`
        along them."""
        c, bank = self.config, self.banks.get(name)
        new = of.unique() if bank is None else of[~torch.isin(of, bank.of)].unique()
        if len(new):
            self.evaluations += 2 * len(new) * c.sampling_steps
            steps, scale = c.sampling_steps, c.guidance_scale
            found = fill_bank(self.pipe, prompts(new), new, self.empty, steps, scale, self.g)
            if goal is not None:
                found.goal = found.along(goal)
            found.predicted = None  # it was for the goal
            self.banks[name] = bank.add(found) if bank else found
        return self.banks[name]

    def at_target(self, k: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """n of target k's prompts, z_t, t on the way to each (ca: to its anchor) and L1's goal."""
        c_e, c_n, name, goal = self.targets[k], self.become[k], f"target {k}", None
        prompts = c_n if self.method.becomes == "anchor" else c_e
        if self.method.becomes != "searched":  # there it moves with the search
            goal = lambda z, t, i, clean: self.goal(z, t, c_n[i], c_e[i], clean)  # noqa: E731
        which = torch.randint(len(c_e), (n,), generator=self.g).to(self.pipe.device)
        if self.config.schedule == "replay":  # all of them at once
            every = torch.arange(len(c_e), device=which.device)
            self.bank(name, every, prompts.__getitem__, goal)
        return which, *self.latents(name, which, prompts.__getitem__, prompts[which])

    def at_preserved(self, k: int, search: Search, choice: Choice) -> tuple[Tensor, Tensor]:
        """z_r and t for what is preserved for target k."""
        if self.config.preserve_at == "target":
            return self.at_target(k, len(choice.chosen))[1:3]
        name = f"preserved {k}"
        return self.latents(name, choice.prompt, search.prompts, choice.embeddings)[:2]

    def ends(self, k: int, search: Search) -> Tensor:
        """A latent that the teacher draws of each candidate of target k, `(n, c, h, w)`."""
        every = torch.arange(len(search.words), device=self.pipe.device)
        bank = self.bank(f"preserved {k}", every, search.prompts)
        return bank.clean[bank.of.argsort()]

    # -- one update: min_θ' L1 + λ L2, in alternation with max_π L2 (Bui et al. 2024, eq. 5) -------

    def teacher(self, z: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The teacher's ẑ₀, with a gradient only where `embeddings` have one (and a backward pass
        to come)."""
        needed = embeddings.requires_grad
        self.evaluations += (3 if needed else 1) * len(z)
        with torch.set_grad_enabled(needed):
            return predict_clean(self.pipe, z, t, embeddings)

    def goal(
        self, z: Tensor, t: Tensor, c_n: Tensor, c_e: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """What L1 pulls the student's ẑ₀(c_e) to: ẑ₀(c_n) − η (ẑ₀(c_e) − ẑ₀(c_n)); η = 0 for an
        anchor. `known`: ẑ₀ of the prompt that z was drawn for, c_e or else the anchor."""
        if self.method.becomes == "anchor":
            return self.teacher(z, t, c_n) if known is None else known
        neutral = self.teacher(z, t, c_n)
        target = self.teacher(z, t, c_e) if known is None else known
        return neutral - self.config.eta * (target - neutral)

    def preserved(
        self, k: int, search: Search, choice: Choice, ascends: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_r, t and the teacher's ẑ₀ there: what L2 holds the student to."""
        z, t = self.at_preserved(k, search, choice)
        # as published, π's gradient takes the teacher's prediction for a constant
        whole = ascends and self.config.search == "gumbel_full"
        return z, t, self.teacher(z, t, choice.embeddings if whole else choice.embeddings.detach())

    def update(self) -> dict[str, Any]:
        """One update of θ', and of π where the search has one; the row of the history."""
        c, g, replay = self.config, self.g, self.config.schedule == "replay"
        k = int(torch.randint(len(self.targets), (1,), generator=g))
        search, choice = self.searches[k], None
        which, z, t, goal = self.at_target(k, c.batch)
        c_e, c_n = self.targets[k][which], self.become[k][which]
        if search and self.method.becomes == "searched":
            choice = search.choose(c.batch, g, which)
            c_n = choice.embeddings.detach()
        if goal is None:
            goal = self.goal(z, t, c_n, c_e)
        row: dict[str, Any] = {"step": len(self.history), "target": c.targets[k]}
        zs, ts, es, original = z, t, c_e, z[:0]
        if search:
            spent = search.look(self.student, lambda: self.ends(k, search))
            self.evaluations += spent  # in two lines, for `ends` counts too
            choice = choice or search.choose(c.preserve_batch, g)
            z_r, t_r, original = self.preserved(k, search, choice, ascends=replay)
            # with replay π climbs the very L2 that θ' descends: the search costs nothing more
            c_a = choice.embeddings if replay else choice.embeddings.detach()
            zs, ts, es = torch.cat([z, z_r]), torch.cat([t, t_r]), torch.cat([c_e, c_a])
            row["chosen"] = "|".join(search.words[i] for i in choice.chosen.tolist())
        with in_place(self.pipe.unet, self.student):  # for the backward of checkpointing too
            clean = predict_clean(self.pipe, zs, ts, es)
            l1 = (clean[: c.batch] - goal).pow(2).mean()
            l2 = (clean[c.batch :] - original).pow(2).mean() if search else l1.new_zeros(())
            self.evaluations += 3 * len(zs)
            row |= {"l1": l1.item(), "l2": l2.item(), "evaluations": self.evaluations}
            loss = l1 + c.lam * l2
            if penalty := self.penalties[k]:
                l2_kv = penalty(self.student)
                row["l2_kv"], loss = l2_kv.item(), loss + c.lam_kv * l2_kv
            self.descend(loss, row)
        if search and (pi := search.learns) is not None:
            row["l2_search"] = self.ascend(k, search, pi, row["l2"])
            row |= search.row() | {"evaluations": self.evaluations}
        return row

    def descend(self, loss: Tensor, row: dict[str, Any]) -> None:
        """One step of θ' with its row in the history. `FloatingPointError`, and neither, for NaN.

        Call it with the student in place, which gradient checkpointing needs in the backward.
        """
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in self.student.values() if p.grad is not None)
        if not (loss + norm).isfinite():
            raise FloatingPointError(row["target"])
        if self.config.anneal:  # half a cosine, from 1 to 0
            share = (1 + math.cos(math.pi * row["step"] / self.config.steps)) / 2
            self.optimiser.param_groups[0]["lr"] = self.config.lr * share
        with uninterrupted():
            self.optimiser.step()
            self.history.append(row)
        self.optimiser.zero_grad()  # now, so that no forward pass holds them

    def ascend(self, k: int, search: Search, pi: nn.Parameter, l2: float) -> float:
        """Move π up L2, by the gradient that `descend` left there (replay) or up a fresh L2, as
        published. Returns that L2."""
        if self.config.schedule == "replay":
            assert pi.grad is not None
            search.ascend(pi.grad)
            pi.grad = None
            return l2
        choice = search.choose(self.config.preserve_batch, self.g)
        z_r, t_r, original = self.preserved(k, search, choice, ascends=True)
        with in_place(self.pipe.unet, self.student):
            moved = predict_clean(self.pipe, z_r, t_r, choice.embeddings)
            fresh = (moved - original).pow(2).mean()
            search.ascend(*torch.autograd.grad(fresh, pi))
        self.evaluations += 3 * len(z_r)
        return fresh.item()

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted run needs to go on; the rest follows from config and pipeline."""
        return {
            "words": [search and search.words for search in self.searches],
            "kinds": [type(search).__name__ for search in self.searches],
            "searches": [search and search.state_dict() for search in self.searches],
            "student": self.student,
            "adam": self.optimiser.state_dict(),
            "generator": self.g.get_state(),
            "banks": {name: vars(bank) for name, bank in self.banks.items()},
            "history": self.history,
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. `EraseError` when the vocabulary gives other candidates now, or for
        another search."""
        if state["words"] != [search and search.words for search in self.searches]:
            raise EraseError(
                f"the candidates from vocabulary {self.config.vocabulary!r} are no longer those of"
                " the checkpoint: restore the vocabulary, or choose another folder"
            )
        if state["kinds"] != (kinds := [type(search).__name__ for search in self.searches]):
            raise EraseError(
                f"the checkpoint is of a run with the searches {state['kinds']}, this one has"
                f" {kinds}: choose another folder"
            )
        for search, learnt in zip(self.searches, state["searches"], strict=True):
            if search:
                search.load_state_dict(learnt)
        for name, parameter in self.student.items():
            parameter.data.copy_(state["student"][name])
        self.optimiser.load_state_dict(state["adam"])
        self.g.set_state(state["generator"])
        for name, of in state["banks"].items():
            there: dict[str, Any] = {
                k: None if t is None else t.to(self.pipe.device) for k, t in of.items()
            }
            self.banks[name] = Bank(**there)
        self.history, self.evaluations = state["history"], state["evaluations"]

    def erasure(self) -> Erasure:
        """The student's tensors as they are now, with how they came about."""
        tensors = {name: parameter.detach() for name, parameter in self.student.items()}
        return Erasure(tensors, self.config, self.base, self.history)


def erase(
    pipe: Pipeline,
    config: EraseConfig,
    callbacks: Sequence[Callback] | None = None,
    search: NewSearch = new_search,
) -> Erasure:
    """Erase `config.targets` and return the edited tensors; the pipeline itself is left untouched.

    min_θ' E_{c_e} max_{c_a} L1(θ'; c_e) + λ L2(θ'; c_a), in alternation (Bui et al. 2024, eq. 5
    and alg. 1). A NaN or infinite loss or gradient, or Ctrl-C, ends the run with the tensors of the
    last whole update of θ', all finite, and a warning that says so (`EraseError` for such a loss
    before any update). Raises `EraseError` for a pipeline in float16.

    Each callback is given the `Run` before its first update and after each: `Progress()` (the
    default; [] shows nothing), `checkpoint.Checkpoint(folder)`, or any function. A `search` of your
    own makes, from the config, the words to search, their `text.Prompts` and the pipeline, a
    `search.Search`.

    The methods of `CLOSED_FORMS` need no training: they take seconds, and neither callbacks nor a
    search.
    """
    if config.method in CLOSED_FORMS:
        return erase_closed_form(pipe, config)
    if precision(pipe) == torch.float16:
        raise EraseError("a float16 pipeline cannot be trained: load it with dtype=torch.bfloat16")
    run = Run(pipe, config, search)
    told = [Progress()] if callbacks is None else callbacks
    try:
        with recomputing(pipe.unet, config.gradient_checkpointing):
            for callback in told:
                callback(run)
            while (step := len(run.history)) < config.steps:
                run.update()
                for callback in told:
                    callback(run)
    except FloatingPointError as error:
        what = f"the loss of {error} or its gradient became NaN or infinite"
        what += f" at update {step}"
        hint = f"lower lr ({config.lr}) or lam ({config.lam})"
        if not run.history:
            raise EraseError(f"{what}: {hint}") from None
        warnings.warn(f"{what}: stopped with the last finite tensors; {hint}", stacklevel=2)
    except KeyboardInterrupt:
        done = len(run.history)
        warnings.warn(f"interrupted: {done} of {config.steps} updates kept", stacklevel=2)
    return run.erasure()


class Progress:
    """A callback of `erase`: a bar of the updates, with both losses."""

    bar: tqdm | None = None

    def __call__(self, run: Run) -> None:
        c, done = run.config, len(run.history)
        if self.bar is None or not done:
            self.bar = tqdm(desc=f"erase ({c.method})", initial=done, total=c.steps)
        self.bar.update(done - self.bar.n)
        if done:
            losses = {name: f"{run.history[-1][name]:.4f}" for name in ("l1", "l2")}
            self.bar.set_postfix(losses)
        if done == c.steps:
            self.bar.close()
