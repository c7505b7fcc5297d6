"""The density of a table, as an estimator of scikit-learn."""
