"""The one training loop: ESD, ESD + neutral and adversarial preservation are its settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from erase_lib.adversarial import GumbelSearch
from erase_lib.concepts import prompts_of, spread_candidates, vocabulary
from erase_lib.config import EraseConfig
from erase_lib.diffusion import alpha_bar, predict, to_clean
from erase_lib.erasure import Erasure
from erase_lib.errors import EraseError
from erase_lib.latents import Bank, fill_bank, sample_to
from erase_lib.models import Pipeline, encode_prompts, fingerprint, in_place, trained_names


def erase(pipe: Pipeline, config: EraseConfig, progress: bool = True) -> Erasure:
    """Erase `config.targets` and return the edited tensors; the pipeline itself is left untouched.

    min_θ' E_{c_e} max_{c_a} L1(θ'; c_e) + λ L2(θ'; c_a), in alternation (Bui et al. 2024, eq. 5
    and alg. 1). A NaN or infinite loss, or Ctrl-C, ends the run with the last good tensors and a
    warning that says so.
    """
    run = _Run(pipe, config)
    history: list[dict[str, object]] = []
    good = run.copy()
    bar = tqdm(range(config.steps), desc=f"erase ({config.method})", disable=not progress)
    try:
        with run.checkpointing():
            for step in bar:
                row = run.update(step)
                if not all(torch.tensor([row["l1"], row["l2"]]).isfinite()):
                    raise FloatingPointError
                history.append({"step": step} | row)
                good = run.copy()
                bar.set_postfix(l1=f"{row['l1']:.4f}", l2=f"{row['l2']:.4f}")
    except FloatingPointError:
        warnings.warn(
            f"the loss became NaN or infinite at update {len(history)}: stopped with the tensors"
            f" before it; lower lr ({config.lr}) or lam ({config.lam})",
            stacklevel=2,
        )
    except KeyboardInterrupt:
        warnings.warn(f"interrupted: {len(history)} of {config.steps} updates kept", stacklevel=2)
    return Erasure(good, config, fingerprint(pipe.unet), history)


class _Run:
    """The state of one run: student, embeddings, banks, searches; `update` is one step."""

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
        self.neutral = encode_prompts(pipe, [config.neutral])
        self.targets = [encode_prompts(pipe, prompts_of(t, config.styles)) for t in config.targets]
        self.searches = [self.new_search(i) for i in range(len(config.targets))]
        self.target_banks: list[Bank] = []
        self.kept_banks: list[Bank] = []
        self.evaluations = 0

    def new_search(self, target: int) -> GumbelSearch | None:
        """What an update preserves: nothing (esd), the neutral concept, or the candidates."""
        config = self.config
        if config.method == "esd":
            return None
        if config.method == "esd_neutral":
            words = [config.neutral]
            embeddings = self.neutral[None].expand(8, -1, -1, -1)  # eight trajectories of it
        else:
            known = [w for w in vocabulary(config.vocabulary) if w not in config.targets]
            if len(known) < 2:
                raise EraseError(f"vocabulary {config.vocabulary!r} has fewer than two candidates")
            every = encode_prompts(self.pipe, known)
            bare = self.targets[target][:1]
            chosen = spread_candidates(
                every, bare, config.nearest, config.candidates, config.thinning, config.seed
            )
            words = [known[i] for i in chosen]
            forms = [prompts_of(w, config.styles) for w in words]
            embeddings = torch.stack(
                [encode_prompts(self.pipe, list(f)) for f in zip(*forms, strict=True)]
            )
        return GumbelSearch(words, embeddings, config.search_lr, config.temperature, config.hard)

    def copy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.student.items()}

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Gradient checkpointing as configured, and the UNet's own setting back afterwards."""
        if not self.config.gradient_checkpointing:
            yield
            return
        unet = self.pipe.unet
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers recomputes in training mode only; these UNets have no dropout
        try:
            yield
        finally:
            unet.disable_gradient_checkpointing()
            unet.eval()

    def fill(self, embeddings: Tensor) -> Bank:
        self.evaluations += 2 * len(embeddings) * self.config.sampling_steps
        c = self.config
        return fill_bank(
            self.pipe, embeddings, self.empty, c.sampling_steps, c.guidance_scale, self.g
        )

    def renew_banks(self) -> None:
        """Targets as the student draws them now; the preserved, once, as the teacher does."""
        if not self.kept_banks:
            for search in self.searches:
                if search is not None:
                    # candidate i under a template of its own: one trajectory a candidate
                    t, n = search.embeddings.shape[:2]
                    flat = torch.stack([search.embeddings[i % t, i % n] for i in range(max(t, n))])
                    self.kept_banks.append(self.fill(flat))
        with in_place(self.pipe.unet, self.student), torch.no_grad():
            self.target_banks = [self.fill(embeddings) for embeddings in self.targets]

    def latents(
        self, embeddings: Tensor, bank: Bank | None, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z_t, t for embeddings `(n, tokens, dim)`: the bank's, or the student's anew."""
        if bank is not None:
            return bank.draw(place, self.g)
        c = self.config
        with in_place(self.pipe.unet, self.student):
            z, t, spent = sample_to(
                self.pipe,
                embeddings.detach(),
                self.empty,
                c.sampling_steps,
                c.guidance_scale,
                self.g,
            )
        self.evaluations += spent
        return z, t

    def teacher(self, z: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The teacher's predicted clean latents."""
        self.evaluations += len(z)
        with torch.no_grad():
            return self.clean(z, t, predict(self.pipe, z, t, embeddings))

    def clean(self, z: Tensor, t: Tensor, output: Tensor) -> Tensor:
        kind = self.pipe.scheduler.config.prediction_type
        return to_clean(output, z, alpha_bar(self.pipe, t), kind)

    def kept(self, target: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Adversarial (or neutral) embeddings with z_r and t, and which candidates they are."""
        search = self.searches[target]
        assert search is not None
        embeddings, chosen, template = search.choose(self.config.preserve_batch, self.g)
        bank = self.kept_banks[target] if self.kept_banks else None
        place = chosen if len(search.words) > 1 else template
        z, t = self.latents(embeddings, bank, place)
        return embeddings, z, t, chosen

    def update(self, step: int) -> dict[str, object]:
        """One update of θ' and, for eap, one of π."""
        c, pipe = self.config, self.pipe
        if c.schedule == "replay" and step % c.refresh == 0:
            self.renew_banks()
        k = int(torch.randint(len(self.targets), (1,), generator=self.g))
        which = torch.randint(len(self.targets[k]), (c.batch,), generator=self.g).to(pipe.device)
        c_e = self.targets[k][which]
        z, t = self.latents(c_e, self.target_banks[k] if self.target_banks else None, which)
        neutral = self.teacher(z, t, self.neutral.expand_as(c_e))
        # target = ẑ₀(c_n) − η (ẑ₀(c_e) − ẑ₀(c_n))
        goal = neutral - c.eta * (self.teacher(z, t, c_e) - neutral)
        row: dict[str, object] = {"target": c.targets[k]}
        search = self.searches[k]
        if search is None:
            zs, ts, es = z, t, c_e
        else:
            c_a, z_r, t_r, chosen = self.kept(k)
            c_a = c_a.detach()
            still = self.teacher(z_r, t_r, c_a)
            zs, ts, es = torch.cat([z, z_r]), torch.cat([t, t_r]), torch.cat([c_e, c_a])
            row["chosen"] = "|".join(search.words[i] for i in chosen.tolist())
        with in_place(pipe.unet, self.student):
            student = self.clean(zs, ts, predict(pipe, zs, ts, es))
            l1 = (student[: c.batch] - goal).pow(2).mean()
            l2 = torch.zeros(()) if search is None else (student[c.batch :] - still).pow(2).mean()
            loss = l1 + c.lam * l2
            self.optimiser.zero_grad()
            if loss.isfinite():
                loss.backward()
                self.optimiser.step()
        self.evaluations += 3 * len(zs)
        if c.method == "eap" and search is not None:
            row["l2_search"] = self.search_step(k, search)
            row["pi"] = search.probabilities().tolist()
        return row | {"l1": l1.item(), "l2": l2.item(), "evaluations": self.evaluations}

    def search_step(self, k: int, search: GumbelSearch) -> float:
        """Move π up L2 by one step; the student stands still."""
        c_a, z_r, t_r, _ = self.kept(k)
        still = self.teacher(z_r, t_r, c_a.detach())
        with in_place(self.pipe.unet, self.student):
            moved = self.clean(z_r, t_r, predict(self.pipe, z_r, t_r, c_a))
            l2 = (moved - still).pow(2).mean()
            search.ascend(l2)
        self.evaluations += 3 * len(z_r)
        return l2.item()
