"""Training data: files to records, records to conversations, conversations to token ids, and what is wrong.

read_records()   path -> Record | Problem        records.py
to_sample()      record -> Sample, or Refused    formats.py, dialogs.py
encode_sample()  Sample -> Example, Pair         encoding.py
prepare()        all of it, into a Store on disk, with a Report      prepare.py, store.py, report.py
"""

from chatglm3.train.data.encoding import Pair, encode_sample
from chatglm3.train.data.formats import Completion, Conversation, Preference, Sample, to_sample
from chatglm3.train.data.prepare import Prepared, prepare
from chatglm3.train.data.records import Problem, Record, read_records
from chatglm3.train.data.report import Report, show_example
from chatglm3.train.data.store import Store

__all__ = [
    "Completion",
    "Conversation",
    "Pair",
    "Preference",
    "Prepared",
    "Problem",
    "Record",
    "Report",
    "Sample",
    "Store",
    "encode_sample",
    "prepare",
    "read_records",
    "show_example",
    "to_sample",
]
