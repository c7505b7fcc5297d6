# ruff: noqa: E501
"""Break a formula on purpose and see the tests fail: a test that cannot fail is a defect.

Each mutation replaces one piece of text in a copy of the package and runs the tests that should notice, which must pass
on an unbroken copy. Prints a line per mutation, with the test that noticed, and exits with 1 if any survives.

    python tests/mutations.py [word]      # only mutations whose name contains the word
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# name, file, text, replacement, tests
MUTATIONS = [
    ("sign of the derivative term in the drift", "process.py", "sigma, d_alpha * value + alpha",
     "sigma, d_alpha * value - alpha", "test_objective"),
    ("derivative of F dropped from the velocity", "process.py", " + alpha * expand(d_tau, value) * slope", "",
     "test_likelihood"),
    ("derivative of the noise-tied time dropped", "process.py", "2 * noise.sigma * noise.d_sigma",
     "torch.ones_like(t)", "test_process"),
    ("-1/2 g^2 score dropped from the reverse drift", "process.py",
     "return velocity - expand(self.noise_rate(t), z) ** 2 / 2 * score", "return velocity", "test_sampling"),
    ("sigma_t for sigma_s in the posterior's variance", "process.py", "-(s_s**2) * torch.expm1",
     "-(s_t**2) * torch.expm1", "test_process"),
    ("sigma ratio inverted in kappa", "process.py", "log_rho.exp() * s_s / s_t", "log_rho.exp() * s_t / s_s", "test_process"),
    ("alpha_s dropped from the variance of the prediction", "process.py", "weight = -expand(at_s.alpha, z_t) *", "weight = -",
     "test_sampling"),
    ("sign of the score", "process.py", "return (m - z) / s**2", "return (z - m) / s**2",
     "test_process"),
    ("sign of the v conversion", "predictor.py", "(alpha * z_t - sigma * target) / (alpha**2",
     "(alpha * z_t + sigma * target) / (alpha**2", "test_predictor"),
    ("sign of the eps conversion", "predictor.py", "(z_t - sigma * target) / alpha", "(z_t + sigma * target) / alpha",
     "test_predictor"),
    ("settings that a network does not read accepted", "experiment/settings.py", "bool(readers) and self.network not in readers", "False", "test_config"),
    ("heights that a flat U-Net has not", "nn/flat_unet.py", "set(settings.attention) <= {shape[1]}", "True", "test_config"),
    ("steps of the bound given to an ODE", "cli/evaluate.py", 'if args.steps and args.estimator.startswith("ode")',
     "if False", "test_evaluate_command"),
    ("the raw weights of a checkpoint", "experiment/run.py", 'prefix = "average."', 'prefix = "model."', "test_cli"),
    ("every process speaks", "cli/train.py", "console.quiet = not processes.is_main_process", "pass", "test_distributed"),
    ("levels weighed by the square of what z says", "decoder.py", "return -0.5 * ((z /", "return -1.0 * ((z /", "test_levels"),
    ("levels off by half a cell", "decoder.py", "(2 * torch.arange(levels, dtype=like.dtype, device=like.device) + 1)",
     "(2 * torch.arange(levels, dtype=like.dtype, device=like.device))", "test_levels"),
    ("levels not scaled by alpha", "decoder.py", "expand(noise.alpha / noise.sigma, z)[..., None]",
     "expand(1 / noise.sigma, z)[..., None]", "test_levels"),
    ("what z says left out", "levels.py", " + log_likelihoods(z_t, noise, self.levels)", "", "test_levels"),
    ("variance of the levels about 0", "levels.py", "(values - x_hat[..., None]) ** 2", "values**2", "test_levels"),
    ("importance before all bins are seen", "times.py", "torch.where(self.seen.all(), self.second_moment, 1.0)",
     "self.second_moment", "test_times"),
    ("constant added to the categorical reconstruction", "decoder.py",
     "return sum_rows(0.5 * own**2", "return 0.01 + sum_rows(0.5 * own**2", "test_objective"),
    ("too few levels looked at", "decoder.py", "0.25 + 80 / sharpness**2", "0.25 + 8 / sharpness**2", "test_decoder"),
    ("constant dropped from the Gaussian reconstruction", "decoder.py", "noise.gamma + 1) / 2", "noise.gamma) / 2",
     "test_objective"),
    ("log-scale of the standardisation forgotten", "decoder.py", "+ self.log_scale(z_0)", "", "test_decoder"),
    ("alpha_0^D forgotten in log_prob", "likelihood.py", "return z_0, log_alpha - decoder", "return z_0, -decoder",
     "test_likelihood"),
    ("alpha_0^D forgotten in uniform dequantisation", "likelihood.py", "return z_0, log_alpha + x_model",
     "return z_0, x_model", "test_likelihood"),
    ("cell's volume forgotten in uniform dequantisation", "likelihood.py",
     " + x_model[0].numel() * math.log(decoder.cell)", "", "test_likelihood"),
    ("dequantisation noise off centre", "decoder.py", "generator) - 0.5)", "generator))", "test_likelihood"),
    ("log K forgotten in the standard error", "likelihood.py", "(logs - mean).exp() if importance", "logs.exp() if importance",
     "test_likelihood"),
    ("sign of the divergence", "likelihood.py", "log_prob(end.state) + end.integral", "log_prob(end.state) - end.integral",
     "test_likelihood"),
    ("q(z_0|x) forgotten in the importance weights", "likelihood.py", " - q_0.log_prob(z_0)", "", "test_likelihood"),
    ("log K forgotten in the importance average", "likelihood.py", "logsumexp(0) - math.log(count)", "logsumexp(0)",
     "test_likelihood"),
    ("prior forgotten", "objective.py", "return self.prior + self.diffusion", "return self.diffusion", "test_objective"),
    ("number of steps forgotten in the discrete bound", "objective.py", "diffusion = steps * discrete_diffusion",
     "diffusion = discrete_diffusion", "test_objective"),
    ("1/2 forgotten in the continuous bound", "objective.py", "expand(q.noise_rate(t), z_t)) ** 2) / 2", "expand(q.noise_rate(t), z_t)) ** 2)",
     "test_objective"),
    ("log ratio forgotten in the KL", "gaussian.py", " + r.log1p()", "", "test_gaussian"),
    ("importance weight forgotten", "times.py", "1 / density[index]", "torch.ones_like(u)", "test_times"),
    ("normalisation of the learned schedule", "schedule.py", "/ (end - start)", "/ end", "test_schedule"),
    ("derivative of the cosine schedule halved", "schedule.py", "2 * (end - start) / (sine",
     "(end - start) / (sine", "test_schedule"),
    ("derivative of a power of time", "transform.py", "k * tau ** (k - 1) * h", "tau ** (k - 1) * h", "test_transform"),
    ("rotation transposed", "transform.py", "(flat @ rotation * gain) @ rotation.T",
     "(flat @ rotation.T * gain) @ rotation", "test_transform"),
    ("one coefficient of Dormand-Prince", "solvers/dormand_prince.py", "5103 / 18656", "5103 / 18666", "test_solvers"),
    ("noise of the stochastic Heun step at its start only", "solvers/sde.py", "((g(t) ** 2 + g(t + h) ** 2) / 2) ** 0.5",
     "g(t)", "test_solvers"),
    ("one coefficient of the dense output", "solvers/dormand_prince.py", "69997945 / 29380423", "-69997945 / 29380423", "test_solvers"),
    ("weight of Lobatto's middle point", "solvers/quadrature.py", "_MIDDLE = 1 / 20, 49 / 180, 16 / 45",
     "_MIDDLE = 1 / 20, 49 / 180, 15 / 45", "test_solvers"),
    ("integral left out of the error control", "solvers/dopri5.py", "ratio[chosen].maximum(gain.error.abs() / scale)",
     "ratio[chosen]", "test_solvers"),
    ("arguments that do not follow their rows", "solvers/dopri5.py", "tuple(a[mask] for a in self.args)", "tuple(a[: int(mask.sum())] for a in self.args)",
     "test_solvers"),
    ("rejected steps kept", "solvers/dopri5.py", "accepted = ratio <= 1", "accepted = ratio <= 100", "test_solvers"),
    ("a failed row's time reported as the end", "solvers/dopri5.py", "problem.end - problem.direction * remaining[rows]",
     "problem.end + 0 * remaining[rows]", "test_solvers"),
    ("random eta ignored by the bound", "training/loss.py", "draws, self.steps, eta)", "draws, self.steps, None)",
     "test_training"),
    ("a panel's integral trusted too far", "solvers/quadrature.py", "_SIMPSON_TO_PAIR / panel**2", "_SIMPSON_TO_PAIR / panel**8", "test_solvers"),
    ("a panel's nodes all in its first step", "solvers/quadrature.py", "i = min(int(panel * p), panel - 1)", "i = 0", "test_solvers"),
    ("only the last step of a panel judged", "solvers/dopri5.py", "return reduce(torch.maximum, ratios)",
     "return ratios[-1]", "test_solvers"),
    ("half a panel in the budget", "solvers/dopri5.py", "nfe + STEP_NFE * self.panel > self.max_nfe", "nfe + STEP_NFE > self.max_nfe", "test_solvers"),
    ("tolerances swapped on their way", "solvers/dopri5.py", "= DormandPrince(z), solver.rtol, solver.atol, max_nfe", "= DormandPrince(z), solver.atol, solver.rtol, max_nfe",
     "test_solvers"),
    ("rows of a block that failed not renumbered", "solvers/solution.py", "block.rows + start for", "block.rows for", "test_likelihood"),
    ("the last failure of a row kept", "solvers/solution.py", "row: rows.index(row)", "row: len(rows) - 1 - rows[::-1].index(row)",
     "test_likelihood"),
    ("a failed row's log-density kept", "likelihood.py", "    if end.failures:", "    if False:", "test_likelihood"),
    ("failures of the ODE not looked at in sampling", "sampling.py", "0.0, solver).checked().state", "0.0, solver).state", "test_sampling"),
    ("pieces with failed rows kept", "evaluation/pieces.py", "if \"failures\" not in pieces[number]:", "if True:", "test_evaluation"),
    ("steps that contradict the solver's accepted", "solvers/options.py", "steps is not None and steps != solver.steps", "False",
     "test_sampling"),
    ("noise of the rows left in the standard error", "evaluation/estimate.py", " - noise / protocol.passes / len(x)", "", "test_evaluation"),
    ("kept pieces computed again", "evaluation/pieces.py", "if name in journal:", "if False:", "test_evaluation"),
    ("every process keeps the first rows' noise", "support/tensors.py", "whole[rank * rows :]", "whole[0 * rows :]", "test_distributed"),
    ("every process takes the first rows", "training/loop.py", "rows[rank * size // count :]", "rows[0 * size // count :]", "test_distributed"),
    ("observed losses of one process only", "training/loop.py",
     'times.observed = self.accelerator.reduce(times.observed, "sum")', "pass", "test_distributed"),
    ("moments of the optimiser lost on resuming", "training/loop.py", 'set_moments(model, self.optimizer.optimizer, part("optimizer."))',
     "pass", "test_training"),
    ("average lost on resuming", "training/loop.py", 'set_weights(model, part("average."))', "pass", "test_training"),
    ("dropout without the step", "training/loss.py", "Stream.DROPOUT, *key", "Stream.DROPOUT, 0, microstep", "test_training"),
    ("a gradient that is not finite taken", "training/loop.py", "if not bool(torch.isfinite(norm)):", "if False:", "test_training"),
    ("checksum not looked at", "training/checkpoint.py", 'if sha256(weights) != record["sha256"]:', "if False:", "test_resume"),
    ("warm-up that starts at its second step", "training/optimization.py", "rise, fall = step / max", "rise, fall = (step + 1) / max",
     "test_training"),
    ("warm-up that outlasts the steps", "training/optimization.py", "min(config.warmup, config.steps // 2)", "config.warmup",
     "test_training"),
    ("steps skipped in a row forgotten on resuming", "training/loop.py", '"skipped_in_a_row": self.skipped_in_a_row,',
     '"skipped_in_a_row": 0,', "test_training"),
    ("a dummy step of the optimiser on resuming", "training/state.py", "if not moments:", "if False:", "test_training"),
    ("other data taken on resuming", "experiment/run.py", "if before != now:", "if False:", "test_training"),
    ("files of no run replaced", "experiment/run.py", "if earlier and not run.config_file.exists():", "if False:",
     "test_training"),
    ("no time left for slow steps", "support/progress.py", ", speed_estimate_period=600", "", "test_training"),
    ("float64 asked of the device", "training/loop.py", "if self.module.count > 1:  # not otherwise", "if True:  # not otherwise",
     "test_training"),
    ("damaged checkpoints counted", "training/checkpoint.py", "[step for step in self.steps() if step <= state.step][-KEEP:]",
     "self.steps()[-KEEP:]", "test_resume"),
    ("the share of uniform times ignored", "training/loss.py", "ImportanceTimes(uniform=uniform)", "ImportanceTimes()",
     "test_training"),
    ("parameters cast to bf16 where they are sharded", "training/optimization.py",
     "plugin.mixed_precision_policy = MixedPrecisionPolicy()", "pass", "test_distributed"),
    ("the average on the first process only", "training/loop.py", "torch.distributed.broadcast(value, 0)", "pass",
     "test_distributed"),
    ("large rows sampled together", "sampling.py", "rows_at_once(shape, BATCH)", "BATCH", "test_sampling"),
    ("large rows validated together", "training/validation.py", "rows_at_once(x.shape[1:], PIECE)", "PIECE", "test_sampling"),
    ("large rows evaluated together", "evaluation/pieces.py", "return rows_at_once(x.shape[1:], ROWS[protocol.estimator])",
     "return ROWS[protocol.estimator]", "test_sampling"),
    ("Fourier features for F", "nn/unet.py", "fourier, settings.patch,", "settings.fourier, settings.patch,", "test_config"),
    ("eta ignored by the drift of p", "objective.py", "p = model(z_t, t, q.eta)\n    return sum_rows", "p = model(z_t, t)\n    return sum_rows",
     "test_objective"),
    ("pieces of an evaluation share their noise", "evaluation/pieces.py", "seeded(protocol.seed, number)", "seeded(protocol.seed)",
     "test_evaluation"),
    ("half a line glued to the next", "support/journal.py", "!= b\"\\n\"", "== b\"\"", "test_evaluation"),
    ("ancestral step from the wrong time", "sampling.py", "full_times(i / steps, z), full_times((i + 1) / steps, z)",
     "full_times(i / (steps + 1), z), full_times((i + 1) / (steps + 1), z)", "test_sampling"),
    ("weights averaged the wrong way round", "training/average.py", "1 - decay)", "decay)", "test_training"),
]  # fmt: skip


def first_failure(tests: str, file: str = "", text: str = "", replacement: str = "") -> str:
    """The first test that fails on a copy of the package, broken if a file is given; empty if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "ndm"
        shutil.copytree(ROOT / "src" / "ndm", package)
        if file:
            source = (package / file).read_text()
            if source.count(text) != 1:
                raise SystemExit(f"{file} holds {text!r} {source.count(text)} times; mend this script")
            (package / file).write_text(source.replace(text, replacement))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if result.returncode not in (0, 1):
            raise SystemExit(f"pytest did not run: {result.stdout[-500:]}")
        failed = [line.split()[1] for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR "))]
        return "" if result.returncode == 0 else failed[0].partition("::")[2]


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [m for m in MUTATIONS if word in m[0]]
    for tests in sorted({m[-1] for m in chosen}):
        if failure := first_failure(tests):
            raise SystemExit(f"{tests} fails on the unbroken package ({failure}); mend that first")
    survivors = 0
    for name, *mutation, tests in chosen:
        noticed = first_failure(tests, *mutation)
        survivors += not noticed
        print(f"{'caught  ' if noticed else 'SURVIVED'}  {name}: {noticed or tests}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
