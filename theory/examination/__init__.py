"""The theorems applied to a problem of one's own: `examine`, and the `Examination` that it returns."""

from theory.examination.data import read_csv as read_csv
from theory.examination.examine import examine as examine
from theory.examination.report import Examination as Examination
