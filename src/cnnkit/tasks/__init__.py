"""What a network is for: loss, score, prediction."""

from cnnkit.tasks.classify import Classifier, Classify, Prediction, Scores, load

__all__ = ["Classifier", "Classify", "Prediction", "Scores", "load"]
