"""The adversary on the other side: in the loop that erases, an embedding that brings back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erase_lib.errors import check_range
from erase_lib.families import denoiser
from erase_lib.hold import in_place
from erase_lib.train import Draw, Run


class Adversary:
    """A callback for `erase`: min_θ' max_δ of L1, for in every `every`-th update the student is
    asked for the target by c_e + δ, and erases that. Of each target one δ `(tokens, dim)`, of all
    its prompts, starts at 0, takes `moves` steps of Adam in the run's own (z_t, t) down what the
    student says for c_e + δ, less what the teacher says for the target (`gap`), and stays within
    `radius` times the length of c_e. As STEREO (Srivatsan et al., CVPR 2025) and AdvUnlearn (Zhang
    et al., NeurIPS 2024) train, but in the embedding; RECE's rounds are its closed form."""

    def __init__(
        self, every: int = 2, moves: int = 3, lr: float = 0.02, radius: float = 0.5
    ) -> None:
        for name, value, most in (("every", every, 1000), ("moves", moves, 1000)):
            check_range(name, value, 1, most)
        self.every, self.moves, self.lr, self.radius = every, moves, lr, radius
        self.delta: dict[int, nn.Parameter] = {}
        self.adam: dict[int, torch.optim.Adam] = {}

    def __call__(self, run: Run) -> None:
        """Before the first update, and after each."""
        done = len(run.history)
        if done >= run.config.steps or done % self.every != self.every - 1:
            return
        run.ahead = run.ahead or run.draws()
        draw = run.ahead[0]
        k, c = draw.target, draw.c_e.detach()
        if k not in self.delta:
            known = run.kept.get(f"adversary {k}", {})  # of a run that goes on
            self.delta[k] = nn.Parameter(known.get("delta", torch.zeros_like(c[0])))
            self.adam[k] = torch.optim.Adam([self.delta[k]], lr=self.lr)
            if known:
                self.adam[k].load_state_dict(known["adam"])
        own = run.teacher(draw.z, draw.t, c)
        for _ in range(self.moves):
            with in_place(denoiser(run.pipe), run.student):  # a checkpointed pass runs again
                gap = self.gap(run, draw, own, c + self.delta[k])
                (self.delta[k].grad,) = torch.autograd.grad(gap, self.delta[k])
            self.adam[k].step()
            with torch.no_grad():
                most = self.radius * c.flatten(1).norm(dim=1).mean()
                self.delta[k].mul_((most / self.delta[k].norm().clamp(min=1e-9)).clamp(max=1))
            run.spend(3 * len(c))
        run.ahead[0] = draw._replace(c_e=c + self.delta[k].detach())
        run.kept[f"adversary {k}"] = {"delta": self.delta[k], "adam": self.adam[k].state_dict()}

    def gap(self, run: Run, draw: Draw, own: Tensor, c: Tensor) -> Tensor:
        """How far the student's ẑ₀ for the embeddings `c (n, tokens, dim)` is from `own`, the
        teacher's for the target: 0 where the target is back."""
        with in_place(denoiser(run.pipe), run.student):
            return run.distance(run.latents.predict(draw.z, draw.t, c), own, draw.t)
