"""The one training loop: ESD, ESD + neutral, CA, EAP and AGE are its settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from erase_lib.bank import Bank, Latents
from erase_lib.checkpoint import Progress
from erase_lib.closed_form import erase_closed_form
from erase_lib.config import CLOSED_FORMS, ELSEWHERE, METHODS, EraseConfig
from erase_lib.diffusion import output_weight, prediction_type
from erase_lib.doors import gate
from erase_lib.erasure import Erasure, Interrupted
from erase_lib.errors import EraseError, NotFinite
from erase_lib.families import Pipeline, denoiser, encoders, is_embedded, tokens
from erase_lib.files import uninterrupted
from erase_lib.hold import held, in_place, placed, plain, recomputing
from erase_lib.kv import KVPenalty, kv_weights
from erase_lib.models import fingerprint, precision, trained_names, using
from erase_lib.rivals import orthogonal
from erase_lib.search import Choice, NewSearch, Search, new_search, new_searches
from erase_lib.text import embed

# given the run before its first update and after each
Callback: TypeAlias = Callable[["Run"], object]
TOGETHER = 32  # latents that the teacher predicts at once, where they are known beforehand


class Draw(NamedTuple):
    """All that one update starts from: what hangs on no update of the student's to come. What is
    preserved is empty where nothing is."""

    target: int
    z: Tensor
    t: Tensor
    c_e: Tensor
    goal: Tensor
    z_r: Tensor
    t_r: Tensor
    original: Tensor  # the teacher's ẑ₀ at z_r, which L2 holds the student to
    choice: Choice | None = None
    evaluations: int = 0


class Run:
    """The state of one run: student, embeddings, banks, searches; `update` is one step. θ' and the
    history change together, once an update and only from finite gradients: at any moment the
    student is finite and what the history says, so no copy of it need be kept."""

    def __init__(self, pipe: Pipeline, config: EraseConfig, search: NewSearch = new_search) -> None:
        self.config = c = config.settled(is_embedded(pipe))
        self.pipe, model = pipe, denoiser(pipe)
        self.method, self.base = METHODS[c.method], fingerprint(model)
        self.g = torch.Generator().manual_seed(c.seed)
        names = trained_names(model, c.train_method)
        with held(model, "reading its weights"):
            weights = {name: plain(model).get_parameter(name).detach() for name in names}
            self.student = {n: nn.Parameter(w.float().clone()) for n, w in weights.items()}
        self.optimiser = torch.optim.Adam(self.student.values(), lr=c.lr, fused=True)
        self.targets = [embed(pipe, t, c.styles, t) for t in c.targets]
        pairs = zip(c.become, c.targets, strict=True)
        self.become = [embed(pipe, word, c.styles, target) for word, target in pairs]
        asks = [embed(pipe, c.erase_from, c.styles, t) for t in c.targets if c.erase_from]
        self.asked = asks or self.targets  # what the student draws
        self.searches = new_searches(pipe, c, search)
        self.penalties = dict[int, KVPenalty]()
        self.apart = orthogonal(pipe, c) if c.project else dict[str, Tensor]()
        for k, found in enumerate(self.searches):
            if found and c.lam_kv:
                every = tokens(model, found.embeddings[:]).transpose(0, 1).flatten(1, 2)
                self.penalties[k] = KVPenalty(kv_weights(model), every)
        self.evaluations, self.history = 0, list[dict[str, Any]]()
        self.kept: dict[str, Any] = {}  # by callbacks, for a run that goes on
        self.latents = Latents(pipe, c, self.student, self.g, self.spend)
        self.ahead: list[Draw] = []

    def at_target(self, k: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """n of target k's prompts, z_t, t on the way to each (ca: to its anchor) and L1's goal."""
        c_e, c_n, name, goal = self.targets[k], self.become[k], f"target {k}", None
        prompts = c_n if self.method.becomes == "anchor" else self.asked[k]
        if self.method.becomes != "searched":  # there it moves with the search
            goal = lambda z, t, i, p: self.goal(z, t, c_n[i], c_e[i], p, prompts[i])  # noqa: E731
        which = torch.randint(len(c_e), (n,), generator=self.g).to(c_e.device)
        if self.config.schedule == "replay":  # all of them at once
            every = torch.arange(len(c_e), device=which.device)
            self.latents.bank(name, every, prompts.__getitem__, goal)
        return which, *self.latents.draw(name, which, prompts.__getitem__, prompts[which])

    def at_preserved(self, k: int, search: Search, choice: Choice) -> tuple[Tensor, Tensor]:
        """z_r and t for what is preserved for target k."""
        if self.config.preserve_at == "target":
            return self.at_target(k, len(choice.chosen))[1:3]
        of = choice.prompt, search.prompts, choice.embeddings
        return self.latents.draw(f"preserved {k}", *of, again=True)[:2]

    def ends(self, k: int, search: Search) -> Tensor:
        """A latent that the teacher draws of each candidate of target k, `(n, c, h, w)`."""
        every = torch.arange(len(search.words), device=denoiser(self.pipe).device)
        bank = self.latents.bank(f"preserved {k}", every, search.prompts)
        return bank.clean[bank.of.argsort()]

    def spend(self, evaluations: int) -> None:
        """Count evaluations of the UNet; a backward pass counts two."""
        self.evaluations += evaluations

    # -- one update: min_θ' L1 + λ L2, in alternation with max_π L2 (Bui et al. 2024, eq. 5) -------

    def teacher(self, z: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The teacher's ẑ₀; with a gradient, and a backward pass to come, if `embeddings` have."""
        needed = embeddings.requires_grad
        self.spend((3 if needed else 1) * len(z))
        with torch.set_grad_enabled(needed):
            return self.latents.predict(z, t, embeddings)

    def distance(self, clean: Tensor, other: Tensor, t: Tensor) -> Tensor:
        """The mean square of what two ẑ₀ at the same z_t, or the outputs behind them, differ by."""
        gap = (clean - other).pow(2)
        if self.config.loss != "clean":
            gap *= output_weight(self.latents.share(t), prediction_type(self.pipe))
        if self.config.loss == "hellinger":
            gap = 1 - (-gap.flatten(1).mean(1)).exp()
        return gap.mean()

    def goal(
        self, z: Tensor, t: Tensor, c_n: Tensor, c_e: Tensor, known: Any = None, asked: Any = None
    ) -> Tensor:
        """What L1 pulls the student's ẑ₀(c_e) to: ẑ₀(c_n) − η (ẑ₀(c_e) − ẑ₀(c_n)); η = 0 for an
        anchor. With `erase_from`, which is `asked`, its own is pulled to as much less of c_e: the
        same where it is c_e. `known`: ẑ₀ of the prompt that z was drawn for, asked or anchor."""
        if self.method.becomes == "anchor":
            return self.teacher(z, t, c_n) if known is None else known
        neutral, eta = self.teacher(z, t, c_n), self.config.eta
        own = self.teacher(z, t, c_e if asked is None else asked) if known is None else known
        if self.config.erase_from:
            return own - (1 + eta) * (self.teacher(z, t, c_e) - neutral)
        return neutral - eta * (own - neutral)

    def original(self, choice: Choice, z: Tensor, t: Tensor, ascends: bool) -> Tensor:
        """The teacher's ẑ₀ of what is preserved, with π's gradient if it climbs the whole of L2."""
        # as published, π's gradient takes the teacher's prediction for a constant
        whole = ascends and self.config.search in ("gumbel_full", "pgd")
        return self.teacher(z, t, choice.embeddings if whole else choice.embeddings.detach())

    def draw(self) -> Draw:
        """What one update starts from, but for the teacher's prediction for the preserved."""
        c, g = self.config, self.g
        k = int(torch.randint(len(self.targets), (1,), generator=g))
        search, choice = self.searches[k], None
        which, z, t, goal = self.at_target(k, c.batch)
        c_e, c_n, asked = (of[k][which] for of in (self.targets, self.become, self.asked))
        if search and self.method.becomes == "searched":
            choice = search.choose(c.batch, g, which)
            c_n = choice.embeddings.detach()
        if goal is None:
            goal = self.goal(z, t, c_n, c_e, None, asked)
        if not search:
            return Draw(k, z, t, asked, goal, z[:0], t[:0], z[:0])
        self.spend(search.look(self.student, lambda: self.ends(k, search)))
        choice = choice or search.choose(c.preserve_batch, g)
        z_r, t_r = self.at_preserved(k, search, choice)
        return Draw(k, z, t, asked, goal, z_r, t_r, z[:0], choice)

    def draws(self) -> list[Draw]:
        """The next update's draw, or those of several where none of them hangs on the student: the
        teacher then predicts `TOGETHER` latents at once. Evaluations count when they are used."""
        c, before, found = self.config, self.evaluations, list[Draw]()
        blind = c.schedule == "replay" and all(search and search.blind for search in self.searches)
        most = max(1, TOGETHER // c.preserve_batch) if blind else 1
        for _ in range(min(most, c.steps - len(self.history))):
            draw = self.draw()
            found.append(draw._replace(evaluations=self.evaluations - before))
            self.evaluations = before
        if not (choices := [draw.choice for draw in found if draw.choice]):
            return found
        every = Choice(*map(torch.cat, zip(*choices, strict=True)))
        z, t = torch.cat([draw.z_r for draw in found]), torch.cat([draw.t_r for draw in found])
        clean = self.original(every, z, t, c.schedule == "replay").chunk(len(found))
        each, self.evaluations = (self.evaluations - before) // len(found), before
        pairs = zip(found, clean, strict=True)
        return [d._replace(original=o, evaluations=d.evaluations + each) for d, o in pairs]

    def update(self) -> dict[str, Any]:
        """One update of θ', and of π where the search has one; the row of the history."""
        c, replay = self.config, self.config.schedule == "replay"
        self.ahead = self.ahead or self.draws()
        k, z, t, c_e, goal, z_r, t_r, original, choice, spent = self.ahead.pop(0)
        search = self.searches[k]
        row: dict[str, Any] = {"step": len(self.history), "target": c.targets[k]}
        self.spend(spent)
        if search and choice:
            # with replay π climbs the very L2 that θ' descends: the search costs nothing more
            c_a = choice.embeddings if replay else choice.embeddings.detach()
            z, t, c_e = torch.cat([z, z_r]), torch.cat([t, t_r]), torch.cat([c_e, c_a])
            row["chosen"] = "|".join(search.words[i] for i in choice.chosen.tolist())
        with in_place(denoiser(self.pipe), self.student):  # for the backward of checkpointing too
            clean = self.latents.predict(z, t, c_e)
            l1 = self.distance(clean[: c.batch], goal, t[: c.batch])  # L1(θ'; c_e)
            l2 = self.distance(clean[c.batch :], original, t_r) if choice else l1.new_zeros(())
            self.spend(3 * len(z))
            row |= {"l1": l1.item(), "l2": l2.item(), "evaluations": self.evaluations}
            # each target has one update of n, what is preserved has all
            share = 1 / len(c.targets) if replay else 1.0
            loss = l1 + share * c.lam * l2  # eq. 5: L1 + λ L2(θ'; c_a); `ascend` is its max over π
            if penalty := self.penalties.get(k):
                l2_kv = penalty(self.student)
                row["l2_kv"], loss = l2_kv.item(), loss + share * c.lam_kv * l2_kv
            self.descend(loss, row)
        if search and search.learns is not None:
            row |= self.ascend(search, row) | search.row() | {"evaluations": self.evaluations}
        return row

    def descend(self, loss: Tensor, row: dict[str, Any]) -> None:
        """One step of θ' with its row in the history. `NotFinite`, and neither, for NaN.
        Call it with the student in place, which gradient checkpointing needs in the backward."""
        pi = [search.learns for search in self.searches if search and search.learns is not None]
        loss.backward(inputs=[*self.student.values(), *pi])  # whatever else asks for a gradient
        for name, apart in self.apart.items():
            gradient = self.student[name].grad
            assert gradient is not None
            gradient.copy_(gradient @ apart)
        norm = nn.utils.get_total_norm(p.grad for p in self.student.values() if p.grad is not None)
        if not (loss + norm).isfinite():
            raise NotFinite(row["target"])
        if self.config.anneal:  # half a cosine, from 1 to 0
            share = (1 + math.cos(math.pi * row["step"] / self.config.steps)) / 2
            self.optimiser.param_groups[0]["lr"] = self.config.lr * share
        with uninterrupted():
            self.optimiser.step()
            self.history.append(row)
        self.optimiser.zero_grad()  # now, so that no forward pass holds them

    def ascend(self, search: Search, row: Mapping[str, Any]) -> dict[str, Any]:
        """Move π up L2, by the gradient that `descend` left there (replay), or by a draw of its own
        and of its own target; as published L1's half is drawn and predicted too, for nothing."""
        if self.config.schedule == "replay":
            assert search.learns is not None and search.learns.grad is not None
            search.ascend(search.learns.grad)
            search.learns.grad = None
            return {"l2_search": row["l2"]}
        k, z, t, c_e, _, z_r, t_r, _, choice, _ = self.draw()
        if not ((found := self.searches[k]) and choice and found.learns is not None):
            return {}  # a single candidate
        original = self.original(choice, z_r, t_r, ascends=True)
        with in_place(denoiser(self.pipe), self.student):
            with torch.no_grad():
                self.latents.predict(z, t, c_e)
            clean = self.latents.predict(z_r, t_r, choice.embeddings)
            fresh = self.distance(clean, original, t_r)
            found.ascend(*torch.autograd.grad(fresh, found.learns))
        self.spend(len(z) + 3 * len(z_r))
        return {"l2_search": fresh.item(), "target_search": self.config.targets[k]}

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted run needs to go on; the rest follows from config and pipeline."""
        return {
            "words": [search and search.words for search in self.searches],
            "kinds": [type(search).__name__ for search in self.searches],
            "searches": [search and search.state_dict() for search in self.searches],
            "student": self.student,
            "adam": self.optimiser.state_dict(),
            "generator": self.g.get_state(),
            "banks": {name: vars(bank) for name, bank in self.latents.banks.items()},
            "ahead": self.ahead,
            "history": self.history,
            "evaluations": self.evaluations,
            "callbacks": self.kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. `EraseError` for other candidates or searches than its own."""
        own = self.state_dict()
        if state["words"] != own["words"]:
            what = f"the candidates from vocabulary {self.config.vocabulary!r} are no longer those"
            raise EraseError(f"{what} of the checkpoint: restore it, or choose another folder")
        if state["kinds"] != own["kinds"]:
            what = f"the checkpoint has the searches {state['kinds']}, this run {own['kinds']}"
            raise EraseError(f"{what}: choose another folder")
        with uninterrupted():
            for search, learnt in zip(self.searches, state["searches"], strict=True):
                if search:
                    search.load_state_dict(learnt)
            for name, parameter in self.student.items():
                parameter.data.copy_(state["student"][name])
            self.optimiser.load_state_dict(state["adam"])
            self.g.set_state(state["generator"].cpu())
            self.latents.banks = {name: Bank(**of) for name, of in state["banks"].items()}
            draws = [Draw(*draw) for draw in state["ahead"]]
            self.ahead = [d._replace(choice=d.choice and Choice(*d.choice)) for d in draws]
            self.history, self.evaluations = state["history"], state["evaluations"]
            self.kept = state["callbacks"]

    def erasure(self) -> Erasure:
        """A copy of the student's tensors as they are now, with how they came about."""
        tensors = {name: parameter.detach().clone() for name, parameter in self.student.items()}
        partial = len(self.history) < self.config.steps
        return Erasure(tensors, self.config, self.base, list(self.history), partial=partial)


@gate
@torch.inference_mode(False)
@torch.enable_grad()
def erase(
    pipe: Pipeline,
    config: EraseConfig,
    callbacks: Sequence[Callback] | None = None,
    search: NewSearch = new_search,
) -> Erasure:
    """Erase `config.targets` and return the edited tensors; the pipeline itself is left untouched.

    min_θ' E_{c_e} max_{c_a} L1(θ'; c_e) + λ L2(θ'; c_a), in alternation (Bui et al. 2024, eq. 5
    and alg. 1). A NaN or infinite loss or gradient ends the run with the tensors of the last whole
    update of θ', all finite, and a warning that says so (`EraseError` before any update). Ctrl-C is
    `Interrupted`, which has them too. Raises `EraseError` for a pipeline in float16, and as
    `models.check_pipeline`. Until the end the pipeline is `held`: another thread waits.

    Each callback is given the `Run` before its first update and after each: `Progress()` (the
    default; [] shows nothing), `checkpoint.Checkpoint(folder)`, or any function. A `search` of your
    own makes, from the config, the words to search, their `text.Prompts` and the pipeline, a
    `search.Search`. The methods of `CLOSED_FORMS`, which do not train, take neither.

    While it trains on an accelerator, text encoders and autoencoder wait on the CPU (`placed`):
    whatever encodes or decodes in between brings them back for that moment.
    """
    closed = config.method in CLOSED_FORMS
    if config.method == ELSEWHERE:
        raise EraseError("method 'other' is of erasures made elsewhere: choose one to erase by")
    with using(pipe, f"erasing {', '.join(config.targets)}", weights=True, draws=not closed):
        if closed:
            return erase_closed_form(pipe, config)
        if precision(pipe) == torch.float16:
            raise EraseError("a float16 pipeline cannot be trained: load it in dtype='bfloat16'")
        run = Run(pipe, config, search)
        told, step = [Progress()] if callbacks is None else callbacks, 0
        for callback in told:
            if isinstance(callback, type):
                kind = callback.__name__
                raise EraseError(f"callbacks has the class {kind}: give one of it, as {kind}()")
        idle = [pipe.vae, *(encoder for encoder, _ in encoders(pipe))]
        try:
            with placed(idle, "cpu"), recomputing(denoiser(pipe), config.gradient_checkpointing):
                for callback in told:
                    callback(run)
                while (step := len(run.history)) < config.steps:
                    run.update()
                    for callback in told:
                        callback(run)
        except NotFinite as error:
            what = f"the loss of {error} or its gradient is NaN or infinite at update {step}"
            hint = f"lower lr ({config.lr}) or lam ({config.lam})"
            if not run.history:
                raise EraseError(f"{what}: {hint}") from None
            warnings.warn(f"{what}: stopped with the last finite tensors; {hint}", stacklevel=5)
        except KeyboardInterrupt:
            raise Interrupted(run.erasure()) from None
        return run.erasure()
