"""The tree of commands."""

import typer

from service.cli import bench, data, demo, evaluating, health, keys, models, operating, serving, soaking

app = typer.Typer(
    name="padrec",
    help="A language model writes each user's next items as one list.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(models.bundle_app, name="bundle")
app.add_typer(models.train_app, name="train")
bench.app.command("soak")(soaking.bench_soak)
bench.app.command("prefix")(soaking.bench_prefix)
app.add_typer(bench.app, name="bench")
app.add_typer(keys.app, name="keys")
app.command()(evaluating.evaluate)
app.command()(demo.demo)
app.command()(serving.serve)
app.command()(serving.gateway)
app.command()(serving.worker)
app.command()(serving.recommend)
app.command()(operating.swap)
app.command()(health.health)
