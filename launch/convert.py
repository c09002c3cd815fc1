"""Make a dataset of other data.

One command for each kind of source:
    python launch/convert.py csv my.csv OUT --click clicked --conversion bought --bag tags:; --split-by user
    python launch/convert.py aliexpress NL data/aliexpress_nl         # raw user and item files, or train.csv, test.csv
    python launch/convert.py aliccp SRC data/aliccp --validation 0.05 # skeleton and common features
    python launch/convert.py criteo criteo_attribution_dataset.tsv.gz data/criteo_attribution --validation-days 2
    python launch/convert.py movielens ../shared/data/ml100k data/movielens
    python launch/convert.py manifest FOLDER        # of Parquet files that are there already, or that have changed

A file that is not compressed is read by all cores at once (--jobs), and the datasets are the same with any number. The
lines at the end say what became of every row.
"""

import argparse

from dist_mtl.cli import Parser, run
from dist_mtl.convert_command import add_csv, add_public, convert, tell
from dist_mtl.data.files.listing import list_folder
from dist_mtl.parallel.world import World


def main() -> None:
    arguments = parser().parse_args()
    if arguments.source != "manifest":
        convert(arguments)
        return
    listed, done = list_folder(arguments.folder, arguments.append)
    tell(arguments.folder, listed)
    print(done)


def parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)
    add_public(sources)
    add_csv(sources)
    listing = sources.add_parser("manifest", help="list and checksum the Parquet files of a folder")
    listing.add_argument("folder", help="a path, or a URL such as s3://bucket/logs")
    listing.add_argument("--append", action="store_true", help="read new files only: trust listed paths and sizes")
    return parser


if __name__ == "__main__":
    run(main, World.alone)
