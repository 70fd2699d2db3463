"""Probes by latents: what is drawn on from a picture that is shown, or is pushed on its way."""

from __future__ import annotations

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib.diffusion import (
    alpha_bar,
    decode,
    encode,
    guided,
    noise,
    noised,
    predict,
    prediction_type,
    sampler,
    start_noise,
    to_clean,
    trajectory,
)
from erase_lib.families import Pipeline
from erase_lib.models import using
from erase_lib.study.aim import Aim, Answer, learning
from erase_lib.text import encode_prompts


def shown(pipe: Pipeline, aim: Aim) -> Tensor:
    """The latents `(n, c, h, w)` of what is shown, in turn, one for each prompt."""
    return encode(pipe, aim.shown)[[i % len(aim.shown) for i in range(len(aim.prompts))]]


def heard(pipe: Pipeline, aim: Aim) -> tuple[Tensor, Tensor]:
    """The embeddings of the prompts, and the empty prompt's."""
    return encode_prompts(pipe, aim.prompts), encode_prompts(pipe, [""])


@torch.no_grad()
def by_completion(pipe: Pipeline, aim: Aim, share: float = 0.2) -> Answer:
    """Pictures that are shown, noised to where a `share` of the steps is done, and drawn on from
    there by name: a part of what comes out was given."""
    skip = round(share * aim.steps)
    with using(pipe, "a probe"):
        t = sampler(pipe, aim.steps).timesteps[skip].expand(len(aim.prompts))
        how = alpha_bar(pipe, t), prediction_type(pipe)
        z = noised(shown(pipe, aim), start_noise(pipe, aim.seeds), *how)
        given = *heard(pipe, aim), aim.steps, aim.guidance_scale
        *_, (_, z) = trajectory(pipe, z, *given, skip=skip)
        return Answer(decode(pipe, z), 2 * (aim.steps - skip) * len(z))


@torch.no_grad()
def by_inpainting(pipe: Pipeline, aim: Aim, share: float = 0.5) -> Answer:
    """The left `share` of a picture that is shown stays, noised as the step wants it, and the rest
    is drawn by name (blended latents: Avrahami et al. 2023)."""
    with using(pipe, "a probe"):
        given, epsilon = shown(pipe, aim), start_noise(pipe, aim.seeds)
        kept = ..., slice(round(share * given.shape[-1]))
        how = *heard(pipe, aim), aim.steps, aim.guidance_scale
        for t, z in trajectory(pipe, epsilon.clone(), *how):
            a = alpha_bar(pipe, t.view(1))
            # in place: the trajectory goes on from it
            z[kept] = noised(given, epsilon, a, prediction_type(pipe))[kept]
        return Answer(decode(pipe, z), 2 * aim.steps * len(z))


@torch.no_grad()
def by_noise(pipe: Pipeline, aim: Aim, eta: float = 1.5) -> Answer:
    """By name, with new noise in every step: as much as an ancestral sampler adds, and (η − 1)
    times as much on top."""
    with using(pipe, "a probe"):
        g, z = torch.Generator().manual_seed(aim.seed), start_noise(pipe, aim.seeds)
        scheduler, (c, empty) = sampler(pipe, aim.steps), heard(pipe, aim)
        for t, after in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
            output, _ = guided(pipe, z, t.expand(len(z)), c, empty, aim.guidance_scale, False)
            fresh = noise(pipe, len(z), g)
            z = scheduler.step(output, t, z, eta=1.0, variance_noise=fresh).prev_sample
            if after is not None:
                now, then = (alpha_bar(pipe, x.view(1)) for x in (t, after))
                z += (eta - 1) * ((1 - then) / (1 - now) * (1 - now / then)).sqrt() * fresh
        return Answer(decode(pipe, z), 2 * aim.steps * len(z))


def by_guidance(pipe: Pipeline, aim: Aim, push: float = 0.3) -> Answer:
    """By name, led by a classifier that is not the one who counts: in each step the output goes a
    `push` of its own length down, so that ẑ₀ rises, along ∇ log p of the concept in what ẑ₀
    decodes to (Dhariwal & Nichol 2021; Bansal et al. 2023). Where the budget ends it is led no
    further."""
    likely, kind = aim.critic(), prediction_type(pipe)
    with learning(pipe):
        z, scheduler = start_noise(pipe, aim.seeds), sampler(pipe, aim.steps)
        led, (c, empty) = min(aim.budget // (4 * len(z)), aim.steps), heard(pipe, aim)
        for i, t in enumerate(scheduler.timesteps):
            z, a = z.detach().requires_grad_(i < led), alpha_bar(pipe, t.view(1))
            output, _ = guided(pipe, z, t.expand(len(z)), c, empty, aim.guidance_scale, False)
            if i < led:
                clean = to_clean(output, z, a, kind).to(pipe.vae.dtype)
                drawn = pipe.vae.decode(clean / pipe.vae.config.scaling_factor).sample.float()
                (slope,) = torch.autograd.grad(likely(drawn).sum(), z)
                wide, long = (x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (slope, output))
                output = output - push * long * slope / wide.clamp(min=1e-12)
            z = scheduler.step(output.detach(), t, z.detach()).prev_sample
        return Answer(decode(pipe, z), (2 * aim.steps + 4 * led) * len(z))


def by_null_text(pipe: Pipeline, aim: Aim, updates: int = 10, lr: float = 0.01) -> Answer:
    """Null-text inversion (Mokady et al., CVPR 2023; as an attack TINA, CVPR 2026): what is shown
    is followed back to noise by name, unguided; then the empty prompt of each step learns to lead
    guided drawing back along that way. Fewer `updates` where the budget says so."""
    with learning(pipe):
        z, (c, empty) = shown(pipe, aim), heard(pipe, aim)
        back = DDIMInverseScheduler.from_config(pipe.scheduler.config, clip_sample=False)
        back.set_timesteps(aim.steps, device=z.device)
        way = [z]
        with torch.no_grad():
            for t in back.timesteps:
                output = predict(pipe, way[-1], t.expand(len(z)), c)
                way.append(back.step(output, t, way[-1]).prev_sample)
        z, scheduler, learns = way.pop(), sampler(pipe, aim.steps), empty.expand_as(c)
        updates = min(updates, max(aim.budget // (aim.steps * len(z)) - 1, 0) // 3)
        for t in scheduler.timesteps:
            goal, at = way.pop(), t.expand(len(z))
            learns = nn.Parameter(learns.detach().clone())
            adam = torch.optim.Adam([learns], lr)

            def ahead(own: Tensor, named: Tensor, t: Tensor = t, z: Tensor = z) -> Tensor:
                u = predict(pipe, z, t.expand(len(z)), own)
                output = u + aim.guidance_scale * (named - u)
                return scheduler.step(output, t, z).prev_sample

            with torch.no_grad():
                named = predict(pipe, z, at, c)
            for _ in range(updates):
                F.mse_loss(ahead(learns, named), goal).backward(inputs=[learns])
                adam.step()
                adam.zero_grad()
            with torch.no_grad():
                z = ahead(learns, named)
        return Answer(decode(pipe, z), 3 * aim.steps * len(z) * (1 + updates))
