"""``ditto-music data``: training data, composed or prepared."""

from pathlib import Path
from typing import Annotated

import typer

from ditto.cli.progress import progress, say

MEBI = 2**20

app = typer.Typer()
data_app = typer.Typer(help="Make training data.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command(
    epilog="Example: ditto-music data compose --hours 6 --out datasets/train --workers 2"
)
def compose(
    out: Annotated[
        Path, typer.Option(help="Folder of the data set; run again to resume or extend.")
    ],
    hours: Annotated[float | None, typer.Option(help="Hours of audio (or give --count).")] = None,
    count: Annotated[int | None, typer.Option(help="Number of pieces, about 27 s each.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the composer.")] = 0,
    split: Annotated[
        str, typer.Option(help="train or heldout: their random streams never meet.")
    ] = "train",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="Processes that render; 1 by default, with --ray one for each of its cores.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster, or auto for this machine's; all machines see --out and "
            "the SoundFonts."
        ),
    ] = None,
    soundfont: Annotated[
        list[Path] | None,
        typer.Option(
            help="A .sf2 or .sf3 file; of several each piece draws one. Default: FluidR3."
        ),
    ] = None,
) -> None:
    """Compose and render labelled music, deterministically."""
    from ditto.composer.corpus import compose_dataset

    with progress("compose") as update:
        compose_dataset(
            out,
            hours=hours,
            count=count,
            seed=seed,
            split=split,
            workers=workers,
            ray=ray,
            soundfonts=soundfont or (),
            progress=lambda done, total: update(done, total=total),
        )


@data_app.command(
    epilog="Example: ditto-music data prepare my-music --tags tags.csv --out datasets/mine"
)
def prepare(
    folder: Annotated[Path, typer.Argument(help="Recordings, searched in depth.")],
    out: Annotated[Path, typer.Option(help="Receives train/ and heldout/; run again to resume.")],
    tags: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file with the columns file, genre, mood, tempo; cells may be empty."
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", "--heldout", help="Share of the recordings to hold out.")
    ] = 0.1,
) -> None:
    """Turn your own recordings and tags into training data."""
    from ditto.data.prepare import prepare_folder

    with progress("prepare") as update:
        prepared = prepare_folder(
            folder,
            out,
            tags_csv=tags,
            heldout=held_out,
            progress=lambda done, total: update(done, total=total),
        )
    for line in prepared.skipped:
        say(f"note: {line}")
    typer.echo(
        f"{prepared.train} segments to train on and {prepared.heldout} held out in {out}: train "
        f"with --data {out / 'train'}" + f" --held-out {out / 'heldout'}" * (prepared.heldout > 0)
    )


@data_app.command(epilog="Example: ditto-music data shard datasets/train --out s3://bucket/train")
def shard(
    folder: Annotated[Path, typer.Argument(help="A folder made by `ditto-music data`.")],
    out: Annotated[
        str,
        typer.Option(help="A folder, or a URL that fsspec writes; run again to resume or extend."),
    ],
    shard_mb: Annotated[
        int, typer.Option(min=1, max=65_536, help="MiB of a shard; one is in memory at a time.")
    ] = 256,
) -> None:
    """Write a data set as tar files, which `train --data URL` reads in place."""
    from ditto.data.sharding import write_shards

    with progress("shard") as update:
        written = write_shards(
            folder,
            out,
            shard_bytes=shard_mb * MEBI,
            progress=lambda done, total: update(done, total=total),
        )
    typer.echo(
        f"{written.pieces} pieces in {written.shards} shards, {written.bytes / 1e9:.2f} GB: train "
        f"with --data {out}"
    )
