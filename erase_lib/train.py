"""One run of the loop: its state between two updates, and what an update does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from erase_lib.bank import Bank, fill_bank, sample_to
from erase_lib.checkpoint import State, adam_tensors, load_adam, read, write
from erase_lib.closed_form import erase_closed_form
from erase_lib.concepts import forms_of
from erase_lib.config import CLOSED_FORMS, EraseConfig
from erase_lib.diffusion import predict_clean
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.files import uninterrupted
from erase_lib.kv import Held, kv_weights
from erase_lib.models import Pipeline, fingerprint, in_place, precision, recomputing, trained_names
from erase_lib.search import Choice, ExhaustiveSearch, GumbelSearch, Probe, Search, new_search
from erase_lib.text import candidates, encode_forms, encode_prompts

# a search of one's own, from the config, the words to search and their embeddings
NewSearch: TypeAlias = Callable[[EraseConfig, list[str], Tensor, Pipeline], Search]


def half_cosine(share: float) -> float:
    """From 1 at the start of a run to 0 at its end."""
    return (1 + math.cos(math.pi * share)) / 2


class Run:
    """The state of one run: student, embeddings, banks, searches; `update` is one step.

    θ' and the history change together, once an update and only from finite gradients: at any
    moment the student is finite and what the history says, so no copy of it need be kept.
    """

    def __init__(self, pipe: Pipeline, config: EraseConfig, search: NewSearch = new_search) -> None:
        self.pipe, self.config = pipe, config
        self.g = torch.Generator().manual_seed(config.seed)
        parameters = dict(pipe.unet.named_parameters())
        self.student = {
            name: nn.Parameter(parameters[name].detach().float().clone())
            for name in trained_names(pipe.unet, config.train_method)
        }
        self.optimiser = torch.optim.Adam(self.student.values(), lr=config.lr)
        self.empty = encode_prompts(pipe, [""])
        self.targets, self.become = (
            [
                encode_prompts(pipe, forms_of(word, config.styles, target))
                for word, target in zip(words, config.targets, strict=True)
            ]
            for words in (config.targets, config.become)
        )
        self.searches = self.new_searches(search)
        self.held = self.new_held()
        self.target_banks: dict[int, Bank] = {}
        self.kept_banks: dict[int, Bank] = {}
        self.evaluations = 0
        self.history: list[dict[str, Any]] = []

    def new_searches(self, new: NewSearch) -> list[Search | None]:
        """What is preserved for each target: nothing (esd), one concept, or those searched."""
        c = self.config
        if c.method == "esd":
            return [None] * len(self.targets)
        if c.method == "esd_neutral":
            words = [[c.neutral]] * len(self.targets)
        elif c.method == "ca":
            words = [[anchor] for anchor in c.become]
        elif c.search == "fixed":
            words = [list(c.preserved)] * len(self.targets)
        else:
            words = candidates(self.pipe, c)
        of = [(some, encode_forms(self.pipe, some, c.styles)) for some in words]
        return [
            # where there is one, there is nothing to search
            new(c, some, e, self.pipe) if len(some) > 1 else Search(some, e)
            for some, e in of
        ]

    def new_held(self) -> list[Held | None]:
        """What holds each target's candidates still in K and V, where the settings ask for it."""
        c, original = self.config, None
        if c.lam_kv:
            original = kv_weights(self.pipe.unet)
        return [
            Held(original, s.embeddings.transpose(0, 1).flatten(1, 2)) if original and s else None
            for s in self.searches
        ]

    def fill(self, embeddings: Tensor, of: Tensor) -> Bank:
        """The teacher's trajectories of the prompts `(n, tokens, dim)`, numbered by `of (n,)`."""
        self.evaluations += 2 * len(embeddings) * self.config.sampling_steps
        c = self.config
        return fill_bank(
            self.pipe, embeddings, of, self.empty, c.sampling_steps, c.guidance_scale, self.g
        )

    def target_bank(self, k: int) -> Bank:
        """Trajectories of target k (ca: of its anchor) with L1's goal along them: drawn once."""
        if k not in self.target_banks:
            c_e, c_n, method = self.targets[k], self.become[k], self.config.method
            of = torch.arange(len(c_e), device=self.pipe.device)
            bank = self.fill(c_n if method == "ca" else c_e, of)
            if method != "age":  # there the goal moves with the search
                bank.goal = bank.along(lambda z, t, i: self.goal(z, t, c_n[i], c_e[i]))
            self.target_banks[k] = bank
        return self.target_banks[k]

    def kept_bank(self, search: Search, k: int, place: Tensor) -> Bank:
        """Trajectories of what is preserved for target k: each drawn once, when first needed."""
        templates, n = search.embeddings.shape[:2]
        bank = self.kept_banks.get(k)
        new = place.unique() if bank is None else bank.lacks(place)
        if len(new):
            # candidate i under a template of its own
            found = self.fill(search.embeddings[new % templates, new % n], new)
            if bank is None:
                bank = self.kept_banks[k] = found
            else:
                bank.add(found)
        assert bank is not None
        return bank

    def set_probe(self, search: ExhaustiveSearch, k: int) -> None:
        """Give an exhaustive search what it measures with, a trajectory's end of each candidate."""
        every = torch.arange(len(search.words), device=self.pipe.device)
        bank = self.kept_bank(search, k, every)
        search.probe = Probe(self.pipe, bank.clean[bank.of.argsort()], search.embeddings[0])

    def at_target(self, k: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """n of target k's training prompts, z_t and t of each, and L1's goal where it is known."""
        which = torch.randint(len(self.targets[k]), (n,), generator=self.g).to(self.pipe.device)
        if self.config.schedule == "published":
            drawn = self.become if self.config.method == "ca" else self.targets
            return which, *self.sampled(drawn[k][which]), None
        return which, *self.target_bank(k).draw(which, self.g)

    def sampled(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """z_t, t for embeddings `(n, tokens, dim)`, drawn by the student anew."""
        pipe, c = self.pipe, self.config
        with in_place(pipe.unet, self.student):
            z, t, spent = sample_to(
                pipe, embeddings.detach(), self.empty, c.sampling_steps, c.guidance_scale, self.g
            )
        self.evaluations += spent
        return z, t

    def teacher(self, z: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The teacher's predicted clean latents, with a gradient only where `embeddings` have one
        (and a backward pass to come)."""
        needed = embeddings.requires_grad
        self.evaluations += (3 if needed else 1) * len(z)
        with torch.set_grad_enabled(needed):
            return predict_clean(self.pipe, z, t, embeddings)

    def goal(self, z: Tensor, t: Tensor, c_n: Tensor, c_e: Tensor) -> Tensor:
        """What L1 pulls the student's ẑ₀(c_e) to: ẑ₀(c_n) − η (ẑ₀(c_e) − ẑ₀(c_n))."""
        neutral = self.teacher(z, t, c_n)
        if self.config.method == "ca":  # η = 0
            return neutral
        return neutral - self.config.eta * (self.teacher(z, t, c_e) - neutral)

    def kept(
        self, search: Search, k: int, choice: Choice, ascends: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_r and t for what is preserved, and the teacher's predicted clean latents there; with
        their gradient where π `ascends` by the whole of it."""
        place = choice.chosen if len(search.words) > 1 else choice.template
        if self.config.preserve_at == "target":
            _, z, t, _ = self.at_target(k, len(place))
        elif self.config.schedule == "published":
            z, t = self.sampled(choice.embeddings)
        else:
            z, t, _ = self.kept_bank(search, k, place).draw(place, self.g)
        # as published, π's gradient takes the teacher's prediction for a constant
        whole = ascends and self.config.search == "gumbel_full"
        c_a = choice.embeddings if whole else choice.embeddings.detach()
        return z, t, self.teacher(z, t, c_a)

    def update(self, step: int) -> dict[str, Any]:
        """One update of θ', and of π where the search has one; the row of the history."""
        c, pipe = self.config, self.pipe
        k = int(torch.randint(len(self.targets), (1,), generator=self.g))
        search = self.searches[k]
        which, z, t, goal = self.at_target(k, c.batch)
        c_e, c_n = self.targets[k][which], self.become[k][which]
        replay, choice = c.schedule == "replay", None
        if c.method == "age" and isinstance(search, GumbelSearch):
            choice = search.choose(c.batch, self.g, which)
            c_n = choice.embeddings.detach()
        if goal is None:
            goal = self.goal(z, t, c_n, c_e)
        row: dict[str, Any] = {"step": step, "target": c.targets[k]}
        if search is None:
            zs, ts, es = z, t, c_e
        else:
            if isinstance(search, ExhaustiveSearch) and search.probe is None:
                self.set_probe(search, k)
            self.evaluations += search.look(self.student, step)
            choice = choice or search.choose(c.preserve_batch, self.g)
            z_r, t_r, still = self.kept(search, k, choice, ascends=replay)
            c_a = choice.embeddings
            if isinstance(search, GumbelSearch):
                # with replay π climbs the very L2 that θ' descends: the search costs nothing more
                search.pi.grad = None
                c_a = c_a if replay else c_a.detach()
            zs, ts, es = torch.cat([z, z_r]), torch.cat([t, t_r]), torch.cat([c_e, c_a])
            row["chosen"] = "|".join(search.words[i] for i in choice.chosen.tolist())
        with in_place(pipe.unet, self.student):
            student = predict_clean(pipe, zs, ts, es)
            l1 = (student[: c.batch] - goal).pow(2).mean()
            l2 = l1.new_zeros(()) if search is None else (student[c.batch :] - still).pow(2).mean()
            self.evaluations += 3 * len(zs)
            row |= {"l1": l1.item(), "l2": l2.item(), "evaluations": self.evaluations}
            loss = l1 + c.lam * l2
            if (held := self.held[k]) is not None:
                l2_kv = held(self.student)
                row["l2_kv"] = l2_kv.item()
                loss = loss + c.lam_kv * l2_kv
            self.descend(loss, row)
        if isinstance(search, GumbelSearch):
            if replay:
                row["l2_search"] = row["l2"]
                assert search.pi.grad is not None  # left by the backward pass of descend
                search.ascend(search.pi.grad)
            else:
                row["l2_search"] = self.search_step(k, search)
            row["pi"] = search.probabilities().tolist()
            row["evaluations"] = self.evaluations
        return row

    def descend(self, loss: Tensor, row: dict[str, Any]) -> None:
        """One step of θ' with its row in the history. `FloatingPointError`, and neither, for NaN.

        Call it with the student in place, which gradient checkpointing needs in the backward.
        """
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in self.student.values() if p.grad is not None)
        if not (loss + norm).isfinite():
            raise FloatingPointError(row["target"])
        if self.config.anneal:
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.lr * half_cosine(row["step"] / self.config.steps)
        with uninterrupted():
            self.optimiser.step()
            self.history.append(row)
        self.optimiser.zero_grad()  # now, so that no forward pass holds them

    def search_step(self, k: int, search: GumbelSearch) -> float:
        """Move π up a fresh L2 by one step, as published; the student stands still."""
        choice = search.choose(self.config.preserve_batch, self.g)
        z_r, t_r, still = self.kept(search, k, choice, ascends=True)
        with in_place(self.pipe.unet, self.student):
            moved = predict_clean(self.pipe, z_r, t_r, choice.embeddings)
            l2 = (moved - still).pow(2).mean()
            search.ascend(*torch.autograd.grad(l2, search.pi))
        self.evaluations += 3 * len(z_r)
        return l2.item()


def state(run: Run) -> State:
    """What an interrupted run needs to go on; the rest follows from config and pipeline."""
    parts: dict[str, dict[str, Tensor]] = {
        "student": dict(run.student),
        "adam": adam_tensors(run.optimiser),
        "generator": {"state": run.g.get_state()},
    }
    for i, search in enumerate(run.searches):
        if search is not None:
            parts[f"search {i}"] = search.tensors()
    for kind, banks in _banks(run).items():
        parts |= {f"{kind} bank {i}": bank.tensors() for i, bank in banks.items()}
    tensors = {f"{part}/{name}": t for part, of in parts.items() for name, t in of.items()}
    words = [search and search.words for search in run.searches]
    kinds = [type(search).__name__ for search in run.searches]
    values = {"history": run.history, "evaluations": run.evaluations}
    return State(tensors, values | {"words": words, "searches": kinds})


def restore(run: Run, found: State) -> None:
    """Go on from a state. `EraseError` when the vocabulary gives other candidates now."""
    if found.values["words"] != [search and search.words for search in run.searches]:
        raise EraseError(
            f"the candidates from vocabulary {run.config.vocabulary!r} are no longer those of"
            " the checkpoint: restore the vocabulary, or choose another folder"
        )
    kinds = [type(search).__name__ for search in run.searches]
    if found.values["searches"] != kinds:
        raise EraseError(
            f"the checkpoint is of a run with the searches {found.values['searches']}, this one has"
            f" {kinds}: choose another folder"
        )
    run.history, run.evaluations = found.values["history"], found.values["evaluations"]
    run.g.set_state(found.tensors["generator/state"])
    load_adam(run.optimiser, found.part("adam"))
    with torch.no_grad():
        for name, tensor in found.part("student").items():
            run.student[name].copy_(tensor)
        for i, search in enumerate(run.searches):
            if search is not None:
                search.load(found.part(f"search {i}"))
    for kind, banks in _banks(run).items():
        for i in range(len(run.targets)):
            if tensors := found.part(f"{kind} bank {i}"):
                banks[i] = Bank(**{k: t.to(run.pipe.device) for k, t in tensors.items()})


def keep(run: Run, folder: str | Path, base: str, quietly: bool = False) -> bool:
    """Write a checkpoint; whether that was possible. If not, a warning says so, once is enough."""
    try:
        write(folder, run.config, base, state(run))
    except EraseError as error:
        if not quietly:
            warnings.warn(f"{error}; the run goes on", stacklevel=3)
        return False
    return True


def _banks(run: Run) -> dict[str, dict[int, Bank]]:
    return {"target": run.target_banks, "kept": run.kept_banks}


def erase(
    pipe: Pipeline,
    config: EraseConfig,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 0,
    callback: Callable[[dict[str, Any]], object] | None = None,
    search: NewSearch = new_search,
    watch: Callable[[int, Mapping[str, Tensor]], object] | None = None,
) -> Erasure:
    """Erase `config.targets` and return the edited tensors; the pipeline itself is left untouched.

    min_θ' E_{c_e} max_{c_a} L1(θ'; c_e) + λ L2(θ'; c_a), in alternation (Bui et al. 2024, eq. 5
    and alg. 1). A NaN or infinite loss or gradient, or Ctrl-C, ends the run with the tensors of the
    last whole update of θ', all finite, and a warning that says so (`EraseError` for such a loss
    before any update). `callback` is given each
    update's row of the history. A `search` of your own makes, from the config, the words to search,
    their embeddings `(templates, n, tokens, dim)` and the pipeline, an `adversarial.Search`.
    `watch` is given the student's tensors before each update and after the last, to look at.

    With a folder `checkpoint` the state of the run is written there every `checkpoint_every`
    updates (0: a tenth of the run) and at the end. The same call goes on from there, to the very
    same tensors and history on the same machine; when the run was done, it returns them at once.
    A checkpoint that cannot be written is a warning. Raises `EraseError` when the folder holds a
    damaged checkpoint or another run's, and for a pipeline in float16.

    The methods of `CLOSED_FORMS` need no training: they take seconds, and ignore `checkpoint`,
    `search` and `watch`.
    """
    if config.method in CLOSED_FORMS:
        erasure = erase_closed_form(pipe, config)
        if callback is not None:
            for row in erasure.history:
                callback(row)
        return erasure
    if precision(pipe) == torch.float16:
        raise EraseError("a float16 pipeline cannot be trained: load it with dtype=torch.bfloat16")
    if checkpoint_every < 0 or (checkpoint_every and checkpoint is None):
        raise EraseError(
            f"checkpoint_every is {checkpoint_every}: expected 0 or more, and a folder `checkpoint`"
        )
    base = fingerprint(pipe.unet)
    state = None if checkpoint is None else read(checkpoint, config, base)
    if state and len(state.values["history"]) == config.steps:
        tensors = {name: t.to(pipe.device) for name, t in state.part("student").items()}
        return Erasure(tensors, config, base, state.values["history"])
    run, unwritten = Run(pipe, config, search), False
    if state:
        restore(run, state)
    first, last = len(run.history), config.steps - 1
    every = checkpoint_every or max(1, config.steps // 10)
    bar = tqdm(
        range(first, config.steps),
        desc=f"erase ({config.method})",
        initial=first,
        total=config.steps,
        disable=not progress,
    )
    try:
        with recomputing(pipe.unet, config.gradient_checkpointing):
            for step in bar:
                if watch is not None:
                    watch(step, run.student)
                row = run.update(step)
                bar.set_postfix(l1=f"{row['l1']:.4f}", l2=f"{row['l2']:.4f}")
                due = (step + 1) % every == 0 or step == last
                if checkpoint is not None and due:
                    unwritten = not keep(run, checkpoint, base, quietly=unwritten)
                if callback is not None:
                    callback(row)
            if watch is not None:
                watch(config.steps, run.student)
    except FloatingPointError as error:
        what = f"the loss of {error} or its gradient became NaN or infinite at update {step}"
        hint = f"lower lr ({config.lr}) or lam ({config.lam})"
        if not run.history:
            raise EraseError(f"{what}: {hint}") from None
        warnings.warn(f"{what}: stopped with the last finite tensors; {hint}", stacklevel=2)
    except KeyboardInterrupt:
        done = len(run.history)
        warnings.warn(f"interrupted: {done} of {config.steps} updates kept", stacklevel=2)
    tensors = {name: p.detach() for name, p in run.student.items()}
    return Erasure(tensors, config, base, run.history)
