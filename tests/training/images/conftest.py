"""Images and tables made on the fly, in the layouts of the public hub."""

import io
import json

import numpy as np
import pytest


def png(pixels):
    """The (H, W, 3) or (H, W) uint8 array as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def random_images(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_parquet(path, images, names=None, image="img", row_group_size=5, **labels):
    """A table with a column of {bytes, path} and columns of labels; `names` are noted as `datasets` notes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = [each if isinstance(each, bytes) or each is None else png(each) for each in images]
    columns = {
        image: pa.array(
            [{"bytes": each, "path": f"{number}.png"} for number, each in enumerate(encoded)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        **{name: pa.array(values) for name, values in labels.items()},
    }
    table = pa.table(columns)
    if names:
        features = {column: {"names": list(of), "_type": "ClassLabel"} for column, of in names.items()}
        table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


@pytest.fixture
def make():
    """The functions above."""

    class Make:
        pass

    Make.png, Make.images, Make.parquet = staticmethod(png), staticmethod(random_images), staticmethod(write_parquet)
    return Make
