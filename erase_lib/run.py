"""One run of the loop: its state between two updates, and what an update does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erase_lib.adversarial import Choice, GumbelSearch, Search, candidates
from erase_lib.checkpoint import State, adam_tensors, load_adam, write
from erase_lib.closed_form import kv_weights
from erase_lib.concepts import neutral_prompts, prompts_of
from erase_lib.config import EraseConfig
from erase_lib.diffusion import alpha_bar, predict, to_clean
from erase_lib.errors import EraseError
from erase_lib.interrupt import uninterrupted
from erase_lib.latents import Bank, fill_bank, sample_to
from erase_lib.models import Pipeline, encode_prompts, in_place, trained_names
from erase_lib.probe import Probe
from erase_lib.searches import ExhaustiveSearch, new_search


class Run:
    """The state of one run: student, embeddings, banks, searches; `update` is one step.

    θ' and the history change together, once an update and only from finite gradients: at any
    moment the student is finite and what the history says, so no copy of it need be kept.
    """

    def __init__(self, pipe: Pipeline, config: EraseConfig) -> None:
        self.pipe, self.config = pipe, config
        self.g = torch.Generator().manual_seed(config.seed)
        parameters = dict(pipe.unet.named_parameters())
        self.student = {
            name: nn.Parameter(parameters[name].detach().float().clone())
            for name in trained_names(pipe.unet, config.train_method)
        }
        self.optimiser = torch.optim.Adam(self.student.values(), lr=config.lr)
        self.empty = encode_prompts(pipe, [""])
        self.neutral = encode_prompts(pipe, neutral_prompts(config.neutral, config.styles))
        self.targets = [encode_prompts(pipe, prompts_of(t, config.styles)) for t in config.targets]
        self.searches = self.new_searches()
        self.target_banks: list[Bank] = []
        self.kept_banks: dict[int, Bank] = {}
        self.evaluations = 0
        self.history: list[dict[str, Any]] = []
        self.warned = False

    def new_searches(self) -> list[Search | None]:
        """What is preserved for each target: nothing (esd), the neutral concept, or candidates."""
        c = self.config
        if c.method == "esd":
            return [None] * len(self.targets)
        if c.method == "esd_neutral":
            found = [([c.neutral], self.neutral[:, None])] * len(self.targets)
        else:
            found = candidates(self.pipe, c, [target[:1] for target in self.targets])
        original = kv_weights(self.pipe.unet) if c.search == "movement" else {}
        return [new_search(c, words, embeddings, original) for words, embeddings in found]

    def state(self) -> State:
        """What an interrupted run needs to go on; the rest follows from config and pipeline."""
        parts: dict[str, dict[str, Tensor]] = {
            "student": dict(self.student),
            "adam": adam_tensors(self.optimiser),
            "generator": {"state": self.g.get_state()},
        }
        for i, search in enumerate(self.searches):
            if search is not None:
                parts[f"search {i}"] = search.tensors()
        parts |= {f"target bank {i}": vars(bank) for i, bank in enumerate(self.target_banks)}
        parts |= {f"kept bank {i}": vars(bank) for i, bank in self.kept_banks.items()}
        tensors = {f"{part}/{name}": t for part, of in parts.items() for name, t in of.items()}
        words = [search and search.words for search in self.searches]
        values = {"history": self.history, "evaluations": self.evaluations, "words": words}
        return State(tensors, values)

    def restore(self, state: State) -> None:
        """Go on from a state. `EraseError` when the vocabulary gives other candidates now."""
        if state.values["words"] != [search and search.words for search in self.searches]:
            raise EraseError(
                f"the candidates from vocabulary {self.config.vocabulary!r} are no longer those of"
                " the checkpoint: restore the vocabulary, or choose another folder"
            )
        self.history, self.evaluations = state.values["history"], state.values["evaluations"]
        self.g.set_state(state.tensors["generator/state"])
        load_adam(self.optimiser, state.part("adam"))
        with torch.no_grad():
            for name, tensor in state.part("student").items():
                self.student[name].copy_(tensor)
            for i, search in enumerate(self.searches):
                if search is not None:
                    search.load(state.part(f"search {i}"))
        for i in range(len(self.targets)):
            for kind in ("target", "kept"):
                if tensors := state.part(f"{kind} bank {i}"):
                    bank = Bank(**{k: t.to(self.pipe.device) for k, t in tensors.items()})
                    if kind == "target":
                        self.target_banks.append(bank)
                    else:
                        self.kept_banks[i] = bank

    def keep(self, folder: str | Path, base: str) -> None:
        """Write a checkpoint; if that fails, say so once and go on."""
        try:
            write(folder, self.config, base, self.state())
        except EraseError as error:
            if not self.warned:
                warnings.warn(f"{error}; the run goes on", stacklevel=3)
            self.warned = True

    def fill(self, embeddings: Tensor, of: Tensor) -> Bank:
        self.evaluations += 2 * len(embeddings) * self.config.sampling_steps
        c = self.config
        return fill_bank(
            self.pipe, embeddings, of, self.empty, c.sampling_steps, c.guidance_scale, self.g
        )

    def renew_banks(self) -> None:
        """The targets' trajectories, as the student draws them now."""
        with in_place(self.pipe.unet, self.student), torch.no_grad():
            self.target_banks = [
                self.fill(embeddings, torch.arange(len(embeddings), device=self.pipe.device))
                for embeddings in self.targets
            ]

    def kept_bank(self, search: Search, target: int, place: Tensor) -> Bank:
        """Trajectories of what is preserved, as the teacher draws it: once, when first needed."""
        templates, n = search.embeddings.shape[:2]
        bank = self.kept_banks.get(target)
        new = place.unique() if bank is None else bank.lacks(place)
        if len(new):
            # candidate i under a template of its own
            found = self.fill(search.embeddings[new % templates, new % n], new)
            if bank is None:
                bank = self.kept_banks[target] = found
            else:
                bank.add(found)
        assert bank is not None
        return bank

    def set_probe(self, search: ExhaustiveSearch, target: int) -> None:
        """Give an exhaustive search what it measures with, a trajectory's end of each candidate."""
        every = torch.arange(len(search.words), device=self.pipe.device)
        bank = self.kept_bank(search, target, every)
        search.probe = Probe(self.pipe, bank.clean[bank.of.argsort()], search.embeddings[0])

    def at_target(self, k: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n of the target's training prompts, and z_t, t of each."""
        which = torch.randint(len(self.targets[k]), (n,), generator=self.g).to(self.pipe.device)
        if self.config.schedule == "published":
            return which, *self.sampled(self.targets[k][which])
        return which, *self.target_banks[k].draw(which, self.g)

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
            return self.clean(z, t, predict(self.pipe, z, t, embeddings))

    def clean(self, z: Tensor, t: Tensor, output: Tensor) -> Tensor:
        kind = self.pipe.scheduler.config.prediction_type
        return to_clean(output, z, alpha_bar(self.pipe, t), kind)

    def kept(self, search: Search, target: int) -> tuple[Choice, Tensor, Tensor, Tensor]:
        """What is preserved, with z_r, t and the teacher's predicted clean latents there."""
        choice = search.choose(self.config.preserve_batch, self.g)
        place = choice.chosen if len(search.words) > 1 else choice.template
        if self.config.preserve_at == "target":
            _, z, t = self.at_target(target, len(place))
        elif self.config.schedule == "published":
            z, t = self.sampled(choice.embeddings)
        else:
            z, t = self.kept_bank(search, target, place).draw(place, self.g)
        # as published, π's gradient takes the teacher's prediction for a constant
        whole = self.config.search == "gumbel_full"
        c_a = choice.embeddings if whole else choice.embeddings.detach()
        return choice, z, t, self.teacher(z, t, c_a)

    def update(self, step: int) -> dict[str, Any]:
        """One update of θ' and, for eap, one of π; the row of the history."""
        c, pipe = self.config, self.pipe
        if c.schedule == "replay" and step % c.refresh == 0:
            self.renew_banks()
        k = int(torch.randint(len(self.targets), (1,), generator=self.g))
        which, z, t = self.at_target(k, c.batch)
        c_e = self.targets[k][which]
        neutral = self.teacher(z, t, self.neutral[which])
        # target = ẑ₀(c_n) − η (ẑ₀(c_e) − ẑ₀(c_n))
        goal = neutral - c.eta * (self.teacher(z, t, c_e) - neutral)
        row: dict[str, Any] = {"step": step, "target": c.targets[k]}
        search = self.searches[k]
        if search is None:
            zs, ts, es = z, t, c_e
        else:
            if isinstance(search, ExhaustiveSearch) and search.probe is None:
                self.set_probe(search, k)
            self.evaluations += search.look(self.student, step)
            choice, z_r, t_r, still = self.kept(search, k)
            c_a = choice.embeddings
            if isinstance(search, GumbelSearch):
                # with replay π climbs the very L2 that θ' descends: the search costs nothing more
                search.pi.grad = None
                c_a = c_a if c.schedule == "replay" else c_a.detach()
            zs, ts, es = torch.cat([z, z_r]), torch.cat([t, t_r]), torch.cat([c_e, c_a])
            row["chosen"] = "|".join(search.words[i] for i in choice.chosen.tolist())
        with in_place(pipe.unet, self.student):
            student = self.clean(zs, ts, predict(pipe, zs, ts, es))
            l1 = (student[: c.batch] - goal).pow(2).mean()
            l2 = l1.new_zeros(()) if search is None else (student[c.batch :] - still).pow(2).mean()
            self.evaluations += 3 * len(zs)
            row |= {"l1": l1.item(), "l2": l2.item(), "evaluations": self.evaluations}
            self.descend(l1 + c.lam * l2, row)
        if isinstance(search, GumbelSearch):
            if c.schedule == "replay":
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
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in self.student.values() if p.grad is not None)
        if not (loss + norm).isfinite():
            raise FloatingPointError
        with uninterrupted():
            self.optimiser.step()
            self.history.append(row)

    def search_step(self, k: int, search: GumbelSearch) -> float:
        """Move π up a fresh L2 by one step, as published; the student stands still."""
        choice, z_r, t_r, still = self.kept(search, k)
        with in_place(self.pipe.unet, self.student):
            moved = self.clean(z_r, t_r, predict(self.pipe, z_r, t_r, choice.embeddings))
            l2 = (moved - still).pow(2).mean()
            search.ascend(*torch.autograd.grad(l2, search.pi))
        self.evaluations += 3 * len(z_r)
        return l2.item()
