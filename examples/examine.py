"""What the theorems promise on real data: logistic regression on breast cancer (Wisconsin, diagnostic).

    python examples/examine.py

It writes breast_cancer.csv and breast_cancer.svg. From the shell, with the file that it leaves:

    gsgd examine breast_cancer.csv --loss logistic --target target --ridge 0.1
"""

from sklearn.datasets import load_breast_cancer

import theory
from theory.examination import read_csv

load_breast_cancer(as_frame=True).frame.to_csv("breast_cancer.csv", index=False)
X, y = read_csv("breast_cancer.csv", target="target")
found = theory.examine(loss="logistic", data=(X, y), ridge=0.1, K=1000)
print(found)
found.plot().figure.savefig("breast_cancer.svg")
