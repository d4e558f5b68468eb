"""Collections as files, and from other stores: export, import.

```python
import shoal
from shoal.transfer import export_collection, import_collection

client = shoal.Client()
export_collection(client.get_collection("books"), "books.parquet")
import_collection(client, "books.parquet", name="books-again")
```

Needs ``shoal[transfer]``. Everything streams: memory does not grow with the collection. An export
is a walk over a collection that may change meanwhile: every record that was there before it began
and was not deleted since is in it. For a copy of one point in time take a snapshot.
"""

from shoal.transfer.chroma import ChromaSource, import_chroma
from shoal.transfer.exporting import export_collection
from shoal.transfer.importing import Columns, import_collection
from shoal.transfer.records import Transferred

__all__ = [
    "ChromaSource",
    "Columns",
    "Transferred",
    "export_collection",
    "import_chroma",
    "import_collection",
]
