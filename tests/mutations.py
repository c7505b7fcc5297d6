# ruff: noqa: E501
"""Break a formula on purpose and see the tests fail: a test that cannot fail is a defect.

A mutation names a function, a piece of its code (an expression or a statement), and the code that replaces the piece.
The script finds the piece in the syntax tree of the function. So line breaks and comments do not matter, and the same
code may stand in other functions. tests/test_house.py checks that every piece is found exactly once.

Each mutation is made in a copy of the package, and the tests that should notice it are run on that copy. They must pass
on an unbroken copy. The script prints a line per mutation with the test that failed, and exits with 1 if a mutation
survives.

    python tests/mutations.py [word]      # only mutations whose name contains the word
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "ndm"


class Mutation(NamedTuple):
    name: str
    place: str
    """A file of the package, and ``::`` and the qualified name of a function or class in it."""
    old: str
    new: str
    tests: str
    """The module of the tests that should notice."""

    @property
    def file(self) -> str:
        return self.place.partition("::")[0]


MUTATIONS = [
    Mutation(*row)
    for row in (
        ("sign of the derivative term in the drift", "process.py::ConditionalProcess.affine_with_derivative",
         "d_alpha * value + alpha * expand(d_tau, value) * slope",
         "d_alpha * value - alpha * expand(d_tau, value) * slope", "test_objective"),
        ("derivative of F dropped from the velocity", "process.py::ConditionalProcess.affine_with_derivative",
         "d_alpha * value + alpha * expand(d_tau, value) * slope",
         "d_alpha * value", "test_likelihood"),
        ("derivative of the noise-tied time dropped", "process.py::ForwardProcess.curve_time",
         "2 * noise.sigma * noise.d_sigma",
         "torch.ones_like(t)", "test_process"),
        ("-1/2 g^2 score dropped from the reverse drift", "process.py::ConditionalProcess.reverse_drift",
         "velocity - expand(self.noise_rate(t), z) ** 2 / 2 * score",
         "velocity", "test_sampling"),
        ("sigma_t for sigma_s in the posterior's variance", "process.py::ConditionalProcess.posterior",
         "s_s ** 2",
         "s_t ** 2", "test_process"),
        ("sigma ratio inverted in kappa", "process.py::ConditionalProcess.posterior",
         "log_rho.exp() * s_s / s_t",
         "log_rho.exp() * s_t / s_s", "test_process"),
        ("alpha_s dropped from the variance of the prediction", "process.py::ConditionalProcess.posterior",
         "-expand(at_s.alpha, z_t) * torch.expm1(log_rho + expand(at_s.gamma - at_t.gamma, z_t) / 2)",
         "-torch.expm1(log_rho + expand(at_s.gamma - at_t.gamma, z_t) / 2)", "test_sampling"),
        ("sign of the score", "process.py::ConditionalProcess.score",
         "(m - z) / s ** 2",
         "(z - m) / s ** 2", "test_process"),
        ("sign of the v conversion", "predictor.py::Predictor.forward",
         "alpha * z_t - sigma * target",
         "alpha * z_t + sigma * target", "test_predictor"),
        ("sign of the eps conversion", "predictor.py::Predictor.forward",
         "z_t - sigma * target",
         "z_t + sigma * target", "test_predictor"),
        ("settings that a network does not read accepted", "experiment/settings.py::ModelConfig.__post_init__",
         "bool(readers) and self.network not in readers",
         "False", "test_config"),
        ("heights that a flat U-Net has not", "nn/flat_unet.py::FlatUNet.build",
         "set(settings.attention) <= {shape[1]}",
         "True", "test_config"),
        ("steps of the bound given to an ODE", "evaluation/protocol.py::choose_protocols",
         "steps and estimator.startswith('ode')",
         "False", "test_evaluate_command"),
        ("the raw weights of a checkpoint", "experiment/run.py::Run.snapshot",
         "part_of(state.tensors, 'average.')",
         "part_of(state.tensors, 'model.')", "test_cli"),
        ("every process speaks", "cli/train.py::run",
         "console.quiet |= not processes.is_main_process",
         "pass", "test_distributed"),
        ("levels weighed by the square of what z says", "decoder.py::log_likelihoods",
         "-0.5 * ((z / expand(noise.sigma, z))[..., None] - centre).square()",
         "-1.0 * ((z / expand(noise.sigma, z))[..., None] - centre).square()", "test_levels"),
        ("levels off by half a cell", "decoder.py::level_values",
         "2 * torch.arange(levels, dtype=like.dtype, device=like.device) + 1",
         "2 * torch.arange(levels, dtype=like.dtype, device=like.device)", "test_levels"),
        ("levels not scaled by alpha", "decoder.py::log_likelihoods",
         "noise.alpha",
         "1", "test_levels"),
        ("what z says left out", "levels.py::LevelsPredictor.forward",
         "a @ self.basis.to(z_t) + likelihoods",
         "a @ self.basis.to(z_t)", "test_levels"),
        ("variance of the levels about 0", "levels.py::LevelsPredictor.forward",
         "values - x_hat[..., None]",
         "values", "test_levels"),
        ("importance before all bins are seen", "times.py::ImportanceTimes.density",
         "torch.where(self.seen.all(), self.second_moment, 1.0)",
         "self.second_moment", "test_times"),
        ("constant added to the categorical reconstruction", "decoder.py::CategoricalDecoder.nll",
         "sum_rows(0.5 * own ** 2 + torch.logsumexp(-0.5 * near ** 2, dim=-1))",
         "0.01 + sum_rows(0.5 * own ** 2 + torch.logsumexp(-0.5 * near ** 2, dim=-1))", "test_objective"),
        ("too few levels looked at", "decoder.py::CategoricalDecoder.nll",
         "80 / sharpness ** 2",
         "8 / sharpness ** 2", "test_decoder"),
        ("constant dropped from the Gaussian reconstruction", "decoder.py::GaussianDecoder.nll",
         "math.log(2 * math.pi) + noise.gamma + 1",
         "math.log(2 * math.pi) + noise.gamma", "test_objective"),
        ("log-scale of the standardisation forgotten", "decoder.py::GaussianDecoder.nll",
         "x[0].numel() * per_element + self.log_scale(z_0)",
         "x[0].numel() * per_element", "test_decoder"),
        ("small pictures not enlarged to the smallest size", "evaluation/grids.py::scale_of",
         "-(-SMALLEST // max(x.shape[2:]))",
         "SMALLEST // max(x.shape[2:])", "test_pictures"),
        ("alpha_0^D forgotten in log_prob", "decoder.py::GaussianDecoder.draw_latent",
         "x[0].numel() * noise.alpha.log() - self.log_scale(z_0)",
         "-self.log_scale(z_0)", "test_likelihood"),
        ("alpha_0^D forgotten in uniform dequantisation", "likelihood.py::draw_latent",
         "u[0].numel() * noise.alpha.log() + log_volume",
         "log_volume", "test_likelihood"),
        ("cell's volume forgotten in uniform dequantisation", "likelihood.py::draw_latent",
         "u[0].numel() * noise.alpha.log() + log_volume",
         "u[0].numel() * noise.alpha.log()", "test_likelihood"),
        ("dequantisation noise off centre", "decoder.py::CategoricalDecoder.dequantize",
         "rand(tuple(x_model.shape), x_model, generator) - 0.5",
         "rand(tuple(x_model.shape), x_model, generator)", "test_likelihood"),
        ("log K forgotten in the standard error", "likelihood.py::_average",
         "logs - mean",
         "logs", "test_likelihood"),
        ("sign of the divergence", "likelihood.py::ode_log_prob",
         "Gaussian.standard(end.state).log_prob(end.state) + end.integral",
         "Gaussian.standard(end.state).log_prob(end.state) - end.integral", "test_likelihood"),
        ("q(z_0|x) forgotten in the importance weights", "decoder.py::Decoder.draw_latent",
         "-self.nll(x, z_0, process) - q_0.log_prob(z_0)",
         "-self.nll(x, z_0, process)", "test_likelihood"),
        ("log K forgotten in the importance average", "likelihood.py::_average",
         "logs.logsumexp(0) - math.log(count)",
         "logs.logsumexp(0)", "test_likelihood"),
        ("prior forgotten", "objective.py::Bound.total",
         "self.prior + self.diffusion",
         "self.diffusion", "test_objective"),
        ("number of steps forgotten in the discrete bound", "objective.py::bound_terms",
         "steps * discrete_diffusion(model, q, z_t, s, t)",
         "discrete_diffusion(model, q, z_t, s, t)", "test_objective"),
        ("1/2 forgotten in the continuous bound", "objective.py::continuous_diffusion",
         "sum_rows(((q.reverse_drift(z_t, t) - p.reverse_drift(z_t, t)) / expand(q.noise_rate(t), z_t)) ** 2) / 2",
         "sum_rows(((q.reverse_drift(z_t, t) - p.reverse_drift(z_t, t)) / expand(q.noise_rate(t), z_t)) ** 2)", "test_objective"),
        ("log ratio forgotten in the KL", "gaussian.py::Gaussian.kl",
         "delta ** 2 - r / (1 + r) + r.log1p()",
         "delta ** 2 - r / (1 + r)", "test_gaussian"),
        ("importance weight forgotten", "times.py::ImportanceTimes.forward",
         "1 / density[index]",
         "torch.ones_like(u)", "test_times"),
        ("normalisation of the learned schedule", "schedule.py::LearnedSchedule.gamma_with_derivative",
         "end - start",
         "end", "test_schedule"),
        ("derivative of the cosine schedule halved", "schedule.py::CosineSchedule.gamma_with_derivative",
         "2 * (end - start)",
         "end - start", "test_schedule"),
        ("derivative of a power of time", "transform.py::BasisCurve.with_derivative",
         "k * tau ** (k - 1)",
         "tau ** (k - 1)", "test_transform"),
        ("rotation transposed", "transform.py::Linear.forward",
         "flat @ rotation * gain @ rotation.T",
         "flat @ rotation.T * gain @ rotation", "test_transform"),
        ("one coefficient of Dormand-Prince", "solvers/dormand_prince.py",
         "-5103 / 18656",
         "-5103 / 18666", "test_solvers"),
        ("noise of the stochastic Heun step at its start only", "solvers/sde.py::stochastic_heun",
         "((g(t) ** 2 + g(t + h) ** 2) / 2) ** 0.5",
         "g(t)", "test_solvers"),
        ("one coefficient of the dense output", "solvers/dormand_prince.py",
         "69997945 / 29380423",
         "-69997945 / 29380423", "test_solvers"),
        ("weight of Lobatto's middle point", "solvers/quadrature.py",
         "(1 / 20, 49 / 180, 16 / 45)",
         "(1 / 20, 49 / 180, 15 / 45)", "test_solvers"),
        ("integral left out of the error control", "solvers/dopri5.py::_integrate",
         "ratio[chosen].maximum(gain.error.abs() / scale)",
         "ratio[chosen]", "test_solvers"),
        ("arguments that do not follow their rows", "solvers/dopri5.py::_Rows.keep",
         "(a[mask] for a in self.args)",
         "(a[:int(mask.sum())] for a in self.args)", "test_solvers"),
        ("rejected steps kept", "solvers/dopri5.py::_Control.judge",
         "ratio <= 1",
         "ratio <= 100", "test_solvers"),
        ("a failed row's time reported as the end", "solvers/dopri5.py::_assemble",
         "problem.end - problem.direction * remaining[rows]",
         "problem.end + 0 * remaining[rows]", "test_solvers"),
        ("random eta ignored by the bound", "training/loss.py::Loss.forward",
         "self.terms(self.model, x, x_model, draws, self.steps, eta)",
         "self.terms(self.model, x, x_model, draws, self.steps, None)", "test_training"),
        ("a panel's integral trusted too far", "solvers/quadrature.py::integrate_panel",
         "panel ** 2",
         "panel ** 8", "test_solvers"),
        ("a panel's nodes all in its first step", "solvers/quadrature.py::integrate_panel",
         "min(int(panel * p), panel - 1)",
         "0", "test_solvers"),
        ("only the last step of a panel judged", "solvers/dopri5.py::_Control.ratio",
         "reduce(torch.maximum, ratios)",
         "ratios[-1]", "test_solvers"),
        ("half a panel in the budget", "solvers/dopri5.py::_Control.judge",
         "STEP_NFE * self.panel",
         "STEP_NFE", "test_solvers"),
        ("tolerances swapped on their way", "solvers/dopri5.py::_Control.__init__",
         "(DormandPrince(z), solver.rtol, solver.atol, max_nfe)",
         "(DormandPrince(z), solver.atol, solver.rtol, max_nfe)", "test_solvers"),
        ("rows of a block that failed not renumbered", "solvers/solution.py::Failures.concatenate",
         "block.rows + start",
         "block.rows", "test_likelihood"),
        ("the last failure of a row kept", "solvers/solution.py::Failures.first",
         "rows.index(row)",
         "len(rows) - 1 - rows[::-1].index(row)", "test_likelihood"),
        ("a failed row's log-density kept", "likelihood.py::ode_log_prob",
         "if end.failures:\n    log_p = log_p.index_fill(0, end.failures.rows.to(log_p.device), math.nan)",
         "if False:\n    log_p = log_p.index_fill(0, end.failures.rows.to(log_p.device), math.nan)", "test_likelihood"),
        ("failures of the ODE not looked at in sampling", "sampling.py::sample",
         "solve_ode(velocity_field(model), z_1, 1.0, 0.0, solver).checked()",
         "solve_ode(velocity_field(model), z_1, 1.0, 0.0, solver)", "test_sampling"),
        ("pieces with failed rows kept", "evaluation/pieces.py::make_pieces",
         "'failures' not in pieces[number]",
         "True", "test_evaluation"),
        ("steps that contradict the solver's accepted", "solvers/options.py::Solver.of",
         "steps is not None and steps != solver.steps",
         "False", "test_sampling"),
        ("noise of the rows left in the standard error", "evaluation/estimate.py::_summarise_bound",
         "variance - noise / protocol.passes / len(x)",
         "variance", "test_evaluation"),
        ("kept pieces computed again", "evaluation/pieces.py::make_pieces",
         "name in journal",
         "False", "test_evaluation"),
        ("every process keeps the first rows' noise", "support/tensors.py::_draw",
         "rank * rows",
         "0 * rows", "test_distributed"),
        ("every process takes the first rows", "training/loop.py::Trainer.gradient",
         "rank * size",
         "0 * size", "test_distributed"),
        ("observed losses of one process only", "training/loop.py::Trainer.update",
         "times.observed = self.accelerator.reduce(times.observed, 'sum')",
         "pass", "test_distributed"),
        ("moments of the optimiser lost on resuming", "training/loop.py::Trainer.load",
         "set_moments(model, self.optimizer.optimizer, part_of(state.tensors, 'optimizer.'))",
         "pass", "test_training"),
        ("average lost on resuming", "training/loop.py::Trainer.load",
         "set_weights(model, part_of(state.tensors, 'average.'))",
         "pass", "test_training"),
        ("dropout without the step", "training/loss.py::Loss.forward",
         "hashed(self.seed, Stream.DROPOUT, *key, self.rank)",
         "hashed(self.seed, Stream.DROPOUT, 0, microstep, self.rank)", "test_training"),
        ("a gradient that is not finite taken", "training/loop.py::Trainer.update",
         "not bool(torch.isfinite(norm))",
         "False", "test_training"),
        ("checksum not looked at", "training/checkpoint.py::Checkpoints.load",
         "sha256(weights) != record.get('sha256')",
         "False", "test_resume"),
        ("weights' checksum not looked at", "saving.py::check_weights",
         "header.metadata.get(WEIGHTS_CHECKSUM) not in (None, checksum(weights))",
         "False", "test_foreign"),
        ("weights that are not finite loaded", "saving.py::check_weights",
         "not_finite(weights)",
         "''", "test_foreign"),
        ("a described model built without a look at its size", "support/outline.py::outline",
         "count > tensors or total > elements",
         "False", "test_foreign"),
        ("arguments of any kind and size", "support/arguments.py::check_arguments",
         "name in hints and not fits(value, hints[name], bound)",
         "False", "test_foreign"),
        ("weights of any type", "support/weights.py::misfit",
         "form.shape != wanted.shape or not same",
         "form.shape != wanted.shape", "test_foreign"),
        ("a state that is not this training's taken", "training/checkpoint.py::Checkpoints.latest",
         "check(state)",
         "pass", "test_foreign"),
        ("moments of some parameters missing", "training/state.py::check_moments",
         "set(kinds) != wanted or len({frozenset(kind) for kind in kinds.values()}) > 1",
         "False", "test_foreign"),
        ("aliases in YAML followed", "support/files.py::_PlainLoader.compose_node",
         "self.check_event(yaml.AliasEvent)",
         "False", "test_files"),
        ("pipes and devices opened", "support/files.py::file_size",
         "not stat.S_ISREG(found.st_mode)",
         "stat.S_ISFIFO(found.st_mode)", "test_files"),
        ("half a line left on a full disk", "support/journal.py::append_line",
         "file.truncate(length)",
         "pass", "test_files"),
        ("the owner's permissions alone", "support/weights.py::write_tensors",
         "path.chmod(permissions)",
         "pass", "test_files"),
        ("a foreign line taken for a piece", "support/journal.py::_is_piece",
         "line[2] == _seal(*line[:2])",
         "True", "test_files"),
        ("warm-up that starts at its second step", "training/optimization.py::learning_rate",
         "step / max(1, warmup)",
         "(step + 1) / max(1, warmup)", "test_training"),
        ("warm-up that outlasts the steps", "training/optimization.py::learning_rate",
         "min(config.warmup, config.steps // 2)",
         "config.warmup", "test_training"),
        ("steps skipped in a row forgotten on resuming", "training/loop.py::Trainer.state",
         "self.skipped_in_a_row",
         "0", "test_training"),
        ("a dummy step of the optimiser on resuming", "training/state.py::set_moments",
         "not moments",
         "False", "test_training"),
        ("other data taken on resuming", "experiment/run.py::Run.check_data",
         "not same_data(before, now)",
         "False", "test_training"),
        ("names of files taken for the identity of data", "data/identity.py::same_data",
         "old == new if old and new else before.get('release') == now.get('release')",
         "before.get('release') == now.get('release')", "test_archives"),
        ("alpha dropped", "data/picture.py::decode_picture",
         "_has_alpha(picture)",
         "False", "test_intake"),
        ("pipes opened", "data/picture.py::examine_picture",
         "not stat.S_ISREG(facts.st_mode)",
         "stat.S_ISDIR(facts.st_mode)", "test_intake"),
        ("deep colour cut", "data/picture.py::_is_deep",
         "re.search(r'\\b(L|LA|P|RGB|RGBA|RGBX|CMYK);16', str(arguments))",
         "False", "test_intake"),
        ("a folder read under two names", "data/listing.py::list_files",
         "place in seen",
         "place in seen and not linked", "test_intake"),
        ("cached rows not verified", "data/cache.py::find_rows",
         "rows is not None and _checksum(name, rows.x) == rows.checksum",
         "rows is not None", "test_cache"),
        ("stale rows kept", "data/cache.py::_remove_stale",
         "other != path",
         "False", "test_cache"),
        ("one partial file for all processes", "data/cache.py::write_rows",
         "uuid.uuid4().hex",
         "os.getpid()", "test_cache"),
        ("an array's claim believed", "support/npy.py::read_header",
         "min(header.shape, default=0) < 0 or header.offset + header.nbytes != length",
         "min(header.shape, default=0) < 0", "test_archives"),
        ("any gap taken for the step of a grid", "tables/grid.py::_whole",
         "np.gcd.reduce(np.diff(k.astype(np.int64)))",
         "np.diff(k).min()", "test_columns"),
        ("broken relations not seen", "tables/schema.py::Schema.broken",
         "relation.broken(x)",
         "np.zeros(len(frame), bool)", "test_schema"),
        ("weights of the quadrature dropped from a drop", "scoring/explain.py::expected",
         "(logs + weights).softmax(1)",
         "logs.softmax(1)", "test_table_commands"),
        ("impossible rows scored as possible", "scoring/model.py::TableModel.score",
         "log_p.numpy() - penalty * any_broken",
         "log_p.numpy()", "test_table_commands"),
        ("the decoder's noise added to draws of real numbers", "distribution.py::ModelDistribution.from_base",
         "decoder.decode(z_0, process, mode=True)",
         "decoder.decode(z_0, process)", "test_distribution"),
        ("dataframes matched by position", "tables/align.py::aligned",
         "frame.names.index(name)",
         "list(names).index(name)", "test_schema"),
        ("types of the first block taken for all", "tables/delimited.py::blocks",
         "_join(found.get(name), _narrowest(block[name], found.get(name)))",
         "found.get(name) or _narrowest(block[name], None)", "test_table_files"),
        ("wide integers wrapped", "data/array.py::_eight_bits",
         "(block < 0) | (block > 255)",
         "block < 0", "test_archives"),
        ("control characters printed", "errors.py::printable",
         "c.isprintable()",
         "True", "test_intake"),
        ("a run trained without its lock", "experiment/run.py::Run.begin",
         "self.lock",
         "nullcontext()", "test_one_writer"),
        ("a lock whose file was removed kept", "support/lock.py::Lock._take",
         "not self.path.exists() or not os.path.samestat(os.fstat(descriptor), self.path.stat())",
         "False", "test_lock"),
        ("a checkpoint that vanished not looked for again", "experiment/snapshot.py::find_checkpoint",
         "checkpoints.steps() == listed",
         "True", "test_one_writer"),
        ("an empty optimiser saved at step 0", "training/loop.py::Trainer.state",
         "get_moments(model, optimizer) if optimizer.state else {}",
         "get_moments(model, optimizer)", "test_going_on"),
        ("fewer steps than are done", "experiment/run.py::Run.change_steps",
         "steps <= done",
         "False", "test_going_on"),
        ("samples beyond the levels scored", "cli/quality.py::checked_samples",
         "bool((x >= dataset.levels).any())",
         "False", "test_results"),
        ("a figure that is not finite reported", "experiment/results.py::check_finite",
         "not math.isfinite(value)",
         "False", "test_results"),
        ("advice within the error", "evaluation/diagnosis.py::Figure.above",
         "self.value - CERTAIN * self.error > limit",
         "self.value > limit", "test_results"),
        ("the error of the gap from unpaired rows", "evaluation/diagnosis.py::_examine_ode",
         "nats_of_rows(odes) - nats_of_rows(bounds)",
         "nats_of_rows(odes) - nats_of_rows(bounds).mean()", "test_results"),
        ("files of no run replaced", "experiment/run.py::Run.check_free",
         "earlier and (not self.config_file.exists())",
         "False", "test_training"),
        ("no time left for slow steps", "support/progress.py::progress_bar",
         "kind(*columns(width), console=console, disable=not visible, speed_estimate_period=600, get_time=clock, expand=True)",
         "kind(*columns(width), console=console, disable=not visible, get_time=clock, expand=True)", "test_training"),
        ("no line while nothing moves", "support/progress.py::Lines.watch",
         "self.refresh()",
         "pass", "test_terminal"),
        ("a log taken for a terminal", "support/progress.py::Messages.animated",
         "bool(getattr(self.file, 'isatty', lambda: False)())",
         "True", "test_terminal"),
        ("text read as markup", "support/progress.py::Messages.__init__",
         "super().__init__(stderr=True, markup=False, highlight=False, emoji=False)",
         "super().__init__(stderr=True)", "test_terminal"),
        ("abbreviated options taken", "cli/options.py::parse",
         "parser.allow_abbrev = False",
         "pass", "test_terminal"),
        ("two lines for an error", "cli/__init__.py::refuse",
         "c.isprintable()",
         "True", "test_terminal"),
        ("float64 asked of the device", "training/loop.py::Trainer.validate",
         "self.module.count > 1",
         "True", "test_training"),
        ("damaged checkpoints counted", "training/checkpoint.py::Checkpoints.save",
         "[step for step in self.steps() if step <= state.step]",
         "self.steps()", "test_resume"),
        ("the share of uniform times ignored", "training/loss.py::Loss.__init__",
         "ImportanceTimes(uniform=uniform)",
         "ImportanceTimes()", "test_training"),
        ("parameters cast to bf16 where they are sharded", "training/optimization.py::suit_sharding",
         "plugin.mixed_precision_policy = MixedPrecisionPolicy()",
         "pass", "test_distributed"),
        ("the average on the first process only", "training/loop.py::Trainer.averaged",
         "torch.distributed.broadcast(value, 0)",
         "pass", "test_distributed"),
        ("large rows sampled together", "sampling.py::sample_in_batches",
         "rows_at_once(shape, BATCH)",
         "BATCH", "test_sampling"),
        ("large rows validated together", "training/validation.py::validation_nats",
         "rows_at_once(x.shape[1:], PIECE)",
         "PIECE", "test_sampling"),
        ("large rows evaluated together", "evaluation/pieces.py::rows_of_piece",
         "rows_at_once(x.shape[1:], ROWS[protocol.estimator])",
         "ROWS[protocol.estimator]", "test_sampling"),
        ("Fourier features for F", "nn/unet.py::UNet.build",
         "cls(shape, multiplier, width, depth, settings.multipliers, settings.attention, settings.heads, dropout, 4 * width if timed else 0, fourier, settings.patch)",
         "cls(shape, multiplier, width, depth, settings.multipliers, settings.attention, settings.heads, dropout, 4 * width if timed else 0, settings.fourier, settings.patch)", "test_config"),
        ("eta ignored by the drift of p", "objective.py::continuous_diffusion",
         "model(z_t, t, q.eta)",
         "model(z_t, t)", "test_objective"),
        ("pieces of an evaluation share their noise", "evaluation/pieces.py::make_pieces",
         "seeded(protocol.seed, number)",
         "seeded(protocol.seed)", "test_evaluation"),
        ("half a line glued to the next", "support/journal.py::append_line",
         "file.read(1) != b'\\n'",
         "file.read(1) == b''", "test_evaluation"),
        ("ancestral step from the wrong time", "sampling.py::ancestral",
         "(full_times(i / steps, z), full_times((i + 1) / steps, z))",
         "(full_times(i / (steps + 1), z), full_times((i + 1) / (steps + 1), z))", "test_sampling"),
        ("uint8 compared with 256", "decoder.py::CategoricalDecoder.encode",
         "(x.min().item(), x.max().item())",
         "(x.min(), x.max())", "test_door"),
        ("rows of another shape let in", "batch.py::as_batch",
         "shape is not None and tuple(x.shape[1:]) != shape",
         "False", "test_door"),
        ("statistics rounded with the model", "decoder.py::GaussianDecoder._apply",
         "setattr(self, name, old.to(new.device))",
         "pass", "test_door"),
        ("data rounded before the mean is subtracted", "batch.py::as_float",
         "torch.promote_types(x.dtype, dtype)",
         "dtype", "test_door"),
        ("large integers rounded", "batch.py::as_float",
         "dtype if fits else torch.float64",
         "dtype", "test_door"),
        ("squares that overflow", "batch.py::check_magnitude",
         "largest[worst].item() <= limit",
         "True", "test_any_batch"),
        ("statistics per channel along the width", "decoder.py::check_statistic",
         "statistic.numel() != 1 and (not fits)",
         "False", "test_door"),
        ("random fields solved", "model.py::check_not_random",
         "module.training and (dropout or inner or isinstance(module, RANDOM))",
         "False", "test_door"),
        ("latents that broadcast", "process.py::ConditionalProcess.check",
         "require_shape('z', z, self.curve.x, 'x')",
         "pass", "test_arguments"),
        ("fields that broadcast", "solvers/checked.py::checked_field",
         "require_shape('the field f(t, z)', value, z)",
         "pass", "test_arguments"),
        ("noise below the resolution", "schedule.py::Schedule.check_precision",
         "noise < 2 * eps",
         "False", "test_ranges"),
        ("more steps than digits", "schedule.py::Schedule.check_precision",
         "steps is not None and steps > max(1, most)",
         "False", "test_ranges"),
        ("all backward passes at once", "likelihood.py::_exact_trace",
         "min(dim, max(1, most // z.numel()))",
         "dim", "test_door"),
        ("forward mode without its lock", "transform.py::NetworkCurve.with_derivative",
         "torch.compiler.is_compiling()",
         "True", "test_door"),
        ("weights averaged the wrong way round", "training/average.py::Average.update",
         "1 - decay",
         "decay", "test_training"),
    )
]  # fmt: skip


def fragment(text: str) -> ast.AST:
    """The syntax tree of one expression or statement."""
    (node,) = ast.parse(text).body
    return node.value if isinstance(node, ast.Expr) else node


def find(tree: ast.Module, mutation: Mutation) -> list[ast.AST]:
    """The nodes that equal the mutation's piece of code: exactly one, unless the code has changed."""
    scope: ast.AST = tree
    for name in filter(None, mutation.place.partition("::")[2].split(".")):
        (scope,) = (
            node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
        )
    wanted = ast.dump(fragment(mutation.old))
    return [node for node in ast.walk(scope) if ast.dump(node) == wanted]


def mutated(package: Path, mutation: Mutation) -> str:
    """The source of the mutation's file with the piece replaced."""
    tree = ast.parse((package / mutation.file).read_text())
    (old,) = find(tree, mutation)
    new = fragment(mutation.new)

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is old else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replace().visit(tree)))


def first_failure(tests: str, mutation: Mutation | None = None) -> str:
    """The first test that fails on a copy of the package, mutated if a mutation is given; empty if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "ndm"
        shutil.copytree(PACKAGE, package)
        if mutation is not None:
            (package / mutation.file).write_text(mutated(package, mutation))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", f"tests/{tests}.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if result.returncode not in (0, 1):
            raise SystemExit(f"pytest did not run: {result.stdout[-500:]}")
        failed = [line.split()[1] for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR "))]
        return "" if result.returncode == 0 else failed[0].partition("::")[2]


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [m for m in MUTATIONS if word in m.name]
    for tests in sorted({m.tests for m in chosen}):
        if failure := first_failure(tests):
            raise SystemExit(f"{tests} fails on the unbroken package ({failure}); mend that first")
    survivors = 0
    for mutation in chosen:
        noticed = first_failure(mutation.tests, mutation)
        survivors += not noticed
        print(f"{'caught  ' if noticed else 'SURVIVED'}  {mutation.name}: {noticed or mutation.tests}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
