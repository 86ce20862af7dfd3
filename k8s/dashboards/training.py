"""Training: progress, losses, speed, workers and checkpoints, cost."""

from k8s.dashboards.grafana import GREEN, RED, YELLOW, Dashboard, Row, graph, stat
from k8s.dashboards.ray import OF_NAMESPACE, RAY, firing

OF_RUN = 'namespace=~"$namespace",run=~"$run"'


def _run(metric: str, by: str = "run") -> str:
    return f"max by ({by}) ({metric}{{{OF_RUN}}})"


def _age(metric: str) -> str:
    return f"time() - max(aigc_training_last_{metric}_timestamp_seconds{{{OF_RUN}}})"


TRAINING = Dashboard(
    uid="aigc-training",
    title="aigc / training",
    description="Progress, losses, workers, checkpoints and cost of runs.",
    variables=(
        ("namespace", "label_values(aigc_training_samples, namespace)"),
        ("run", f"label_values(aigc_training_samples{{{OF_NAMESPACE}}}, run)"),
    ),
    rows=(
        Row(
            title="Health",
            panels=(
                stat(
                    "Workers",
                    "Workers that train, of all runs chosen; 0 while a run waits. Alert:"
                    " AigcWorkersBelowMinimum.",
                    "short",
                    f"sum({_run('aigc_training_workers')})",
                    thresholds=((1, GREEN),),
                    falling=True,
                ),
                stat(
                    "Alerts firing",
                    "Alerts of training and of Ray; docs/operations.md says what each means.",
                    "short",
                    firing("Aigc(Training|Checkpoint|Workers|Gcs|Scrape).*"),
                    thresholds=((1, RED),),
                ),
                stat(
                    "Last report",
                    "Since the newest report. Alert above 15 minutes: AigcTrainingStalled.",
                    "s",
                    _age("report"),
                    thresholds=((300, YELLOW), (900, RED)),
                ),
                stat(
                    "Last checkpoint",
                    "Since the newest whole checkpoint: what a failure now would cost. Alert above"
                    " an hour: AigcCheckpointOld.",
                    "s",
                    _age("checkpoint"),
                    thresholds=((1800, YELLOW), (3600, RED)),
                ),
                stat(
                    "Speed",
                    "Samples per second, of all runs chosen.",
                    "short",
                    f"sum(namespace_run:aigc_training_samples_per_second:max{{{OF_RUN}}})",
                ),
                stat(
                    "Samples seen",
                    "How far the weights are; a rollback takes back.",
                    "short",
                    f"sum({_run('aigc_training_samples')})",
                ),
                stat(
                    "Restarts",
                    "Starts of the workers after the first. Alert at 4 within an hour:"
                    " AigcTrainingRestarting.",
                    "short",
                    f"sum(namespace_run:aigc_training_restarts:max{{{OF_RUN}}})",
                    thresholds=((1, YELLOW), (10, RED)),
                ),
                stat(
                    "Cost",
                    "What the runs chosen have cost so far, in the unit of"
                    " --price-per-worker-hour.",
                    "short",
                    f"sum({_run('aigc_training_cost')})",
                ),
            ),
        ),
        Row(
            title="Learning",
            panels=(
                graph(
                    "Loss",
                    "Mean loss of each phase since the report before.",
                    "none",
                    (_run("aigc_training_loss", "run, phase"), "{{run}} {{phase}}"),
                ),
                graph(
                    "Gradient norm",
                    "Mean norm of each phase's gradients: a rise by orders of magnitude comes"
                    " before a divergence.",
                    "none",
                    (_run("aigc_training_gradient_norm", "run, phase"), "{{run}} {{phase}}"),
                ),
                graph(
                    "Discriminator",
                    "Its mean output on real and on generated samples: far apart, it has won.",
                    "none",
                    (_run("aigc_training_discriminator_real_logit"), "{{run}} real"),
                    (_run("aigc_training_discriminator_fake_logit"), "{{run}} generated"),
                ),
                graph(
                    "Quality",
                    "Frechet distance of generated to real samples, or the metric of --quality, as"
                    " last measured (--evaluate-interval): less is better.",
                    "none",
                    (_run("aigc_training_quality", "run, metric"), "{{run}} {{metric}}"),
                ),
                graph(
                    "Samples seen",
                    "A straight line while all is well; a step back is a restart or a rollback.",
                    "short",
                    (_run("aigc_training_samples"), "{{run}}"),
                ),
                graph(
                    "Rollbacks",
                    "Times that a diverged run went back to a checkpoint with half the learning"
                    " rates.",
                    "short",
                    (_run("aigc_training_rollbacks"), "{{run}}"),
                ),
            ),
        ),
        Row(
            title="Speed",
            panels=(
                graph(
                    "Samples per second",
                    "Mean since the report before.",
                    "short",
                    (
                        f"namespace_run:aigc_training_samples_per_second:max{{{OF_RUN}}}",
                        "{{run}}",
                    ),
                ),
                graph(
                    "Waiting for data",
                    "Share of the time that training waited for its data: above a few percent, it"
                    " wants more or faster readers.",
                    "percentunit",
                    (_run("aigc_training_data_wait_ratio"), "{{run}}"),
                ),
                graph(
                    "Rows skipped",
                    "Rows that could not be read since the workers' start (--data.on-error skip).",
                    "short",
                    (_run("aigc_training_rows_skipped"), "{{run}}"),
                ),
            ),
        ),
        Row(
            title="Workers and checkpoints",
            panels=(
                graph(
                    "Workers",
                    "Workers that train, the fewest with which a run goes on and the most that it"
                    " takes.",
                    "short",
                    (_run("aigc_training_workers"), "{{run}}"),
                    (f"max(aigc_training_min_workers{{{OF_RUN}}})", "fewest"),
                    (f"max(aigc_training_max_workers{{{OF_RUN}}})", "most"),
                    dashed=("fewest", "most"),
                ),
                graph(
                    "Checkpoint age",
                    "Since the newest whole checkpoint, as of the last report; a saw while all is"
                    " well.",
                    "s",
                    (
                        f"namespace_run:aigc_training_checkpoint_age:seconds{{{OF_RUN}}}",
                        "{{run}}",
                    ),
                ),
                graph(
                    "Checkpoints that failed",
                    "Attempts to write one that failed, since the workers' start.",
                    "short",
                    (_run("aigc_training_checkpoint_failures"), "{{run}}"),
                ),
                graph(
                    "Work lost",
                    "Samples that were trained again because of restarts.",
                    "short",
                    (_run("aigc_training_work_lost_samples"), "{{run}}"),
                ),
                graph(
                    "Restarts",
                    "Starts of the workers after the first, over all tries of a job.",
                    "short",
                    (f"namespace_run:aigc_training_restarts:max{{{OF_RUN}}}", "{{run}}"),
                ),
                graph(
                    "Cost",
                    "So far, in the unit of --price-per-worker-hour.",
                    "short",
                    (_run("aigc_training_cost"), "{{run}}"),
                ),
            ),
        ),
        RAY,
    ),
)
