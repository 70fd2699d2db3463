"""Probes by latents: what is drawn on from a picture that is shown, or is pushed on its way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from erase_lib import diffusion
from erase_lib.diffusion import alpha_bar, decode, encode, guided, sampler, start_noise, to_clean
from erase_lib.families import Pipeline, denoiser
from erase_lib.hold import placed
from erase_lib.models import using
from erase_lib.study.aim import Aim, Answer, learning
from erase_lib.text import encode_prompts

FEW = 4  # pictures that gradients are taken of at once


def shown(pipe: Pipeline, aim: Aim) -> tuple[Tensor, Tensor]:
    """The latents `(n, c, h, w)` of what is shown and the embeddings of its captions, in turn, as
    many as there are prompts."""
    turn = [i % len(aim.shown) for i in range(len(aim.prompts))]
    return encode(pipe, aim.shown)[turn], encode_prompts(pipe, aim.captions)[turn]


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
        how = alpha_bar(pipe, t), diffusion.prediction_type(pipe)
        clean, c = shown(pipe, aim)
        z = diffusion.noised(clean, start_noise(pipe, aim.seeds), *how)
        given = c, encode_prompts(pipe, [""]), aim.steps, aim.guidance_scale
        *_, (_, z) = diffusion.trajectory(pipe, z, *given, skip=skip)
        return Answer(decode(pipe, z), 2 * (aim.steps - skip) * len(z))


@torch.no_grad()
def by_inpainting(pipe: Pipeline, aim: Aim, share: float = 0.5) -> Answer:
    """The left `share` of a picture that is shown stays, noised as the step wants it, and the rest
    is drawn by name (blended latents: Avrahami et al. 2023)."""
    with using(pipe, "a probe"):
        (given, c), epsilon = shown(pipe, aim), start_noise(pipe, aim.seeds)
        kept = ..., slice(round(share * given.shape[-1]))
        how = c, encode_prompts(pipe, [""]), aim.steps, aim.guidance_scale
        for t, z in diffusion.trajectory(pipe, epsilon.clone(), *how):
            a = alpha_bar(pipe, t.view(1))
            # in place: the trajectory goes on from it
            z[kept] = diffusion.noised(given, epsilon, a, diffusion.prediction_type(pipe))[kept]
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
            fresh = diffusion.noise(pipe, len(z), g)
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
    with learning(pipe), placed([pipe.vae], denoiser(pipe).device):
        likely, scheduler, (c, empty) = aim.critic(), sampler(pipe, aim.steps), heard(pipe, aim)
        led, ends = min(aim.budget // (4 * len(c)), aim.steps), []
        for z, some in zip(start_noise(pipe, aim.seeds).split(FEW), c.split(FEW), strict=True):
            for i, t in enumerate(scheduler.timesteps):
                z = z.detach().requires_grad_(i < led)
                given = t.expand(len(z)), some, empty, aim.guidance_scale, False
                output, _ = guided(pipe, z, *given)
                if i < led:
                    slope = _slope(pipe, likely, output, z, t)
                    up, own = (x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (slope, output))
                    output = output - push * own * slope / up.clamp(min=1e-12)
                z = scheduler.step(output.detach(), t, z.detach()).prev_sample
            ends.append(z)
        return Answer(decode(pipe, torch.cat(ends)), (2 * aim.steps + 4 * led) * len(c))


def _slope(
    pipe: Pipeline, likely: Callable[[Tensor], Tensor], output: Tensor, z: Tensor, t: Tensor
) -> Tensor:
    """∇ `(n, c, h, w)` of log p by z, of the picture that the output at z_t predicts."""
    clean = to_clean(output, z, alpha_bar(pipe, t.view(1)), diffusion.prediction_type(pipe))
    given = clean.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
    (slope,) = torch.autograd.grad(likely(pipe.vae.decode(given).sample.float()).sum(), z)
    return slope


def by_null_text(pipe: Pipeline, aim: Aim, updates: int = 10, lr: float = 0.01) -> Answer:
    """Null-text inversion (Mokady et al., CVPR 2023; as an attack TINA, CVPR 2026): what is shown
    is followed back to noise by name, unguided; then the empty prompt of each step learns to lead
    guided drawing back along that way. There is no noise in it, so that each picture that is shown
    is asked for once. Fewer `updates` where the budget says so; following and drawing are three
    evaluations a step."""
    with learning(pipe):
        clean, c = (part[: len(aim.shown)] for part in shown(pipe, aim))
        empty = encode_prompts(pipe, [""])
        updates = min(updates, max(aim.budget // (aim.steps * len(c)) - 1, 0) // 3)
        pairs = zip(clean.split(FEW), c.split(FEW), strict=True)
        ends = [_led_back(pipe, aim, z, some, empty, updates, lr) for z, some in pairs]
        return Answer(decode(pipe, torch.cat(ends)), 3 * aim.steps * len(c) * (1 + updates))


def _led_back(
    pipe: Pipeline, aim: Aim, clean: Tensor, c: Tensor, empty: Tensor, updates: int, lr: float
) -> Tensor:
    """The latents that null-text inversion of `clean (n, c, h, w)` ends in, told c."""
    scheduler, way = sampler(pipe, aim.steps), [clean]
    known = {"clip_sample": False, "timestep_spacing": "leading"}
    back = DDIMInverseScheduler.from_config(pipe.scheduler.config, **known)
    back.set_timesteps(aim.steps, device=clean.device)
    back.timesteps = scheduler.timesteps.flip(0)  # whatever their spacing
    with torch.no_grad():
        for t in back.timesteps:
            output = diffusion.predict(pipe, way[-1], t.expand(len(c)), c)
            way.append(back.step(output, t, way[-1]).prev_sample)
    z, learns = way.pop(), nn.Parameter(empty.expand_as(c).clone())
    for t in scheduler.timesteps:
        goal, at, adam = way.pop(), t.expand(len(c)), torch.optim.Adam([learns], lr)
        with torch.no_grad():
            named = diffusion.predict(pipe, z, at, c)
        for left in reversed(range(updates + 1)):
            with torch.set_grad_enabled(left > 0):
                u = diffusion.predict(pipe, z, at, learns)
                ahead = scheduler.step(u + aim.guidance_scale * (named - u), t, z).prev_sample
            if left:
                F.mse_loss(ahead, goal).backward(inputs=[learns])
                adam.step()
                adam.zero_grad()
        z = ahead
    return z
