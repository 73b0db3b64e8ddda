"""What columns are called by the tools people have, as plain(name) writes it."""

ROLES = ("teacher", "student", "baseline")  # of the models
IDS = (
    *("id", "ids", "exampleid", "sampleid", "imageid", "uid", "uuid", "filename", "filepath"),
    *("file", "path", "imagepath", "image", "index"),
)
UNNAMED = "Unnamed: 0"  # how pandas calls a column without a name, such as an index it wrote
LABELS = (
    *("label", "labels", "y", "target", "targets", "ytrue", "true", "truelabel", "groundtruth"),
    *("truth", "gt", "labelid", "labelids", "classlabel", "class", "actual", "obs", "gtlabel"),
)
PREDICTED = (
    *("predicted", "prediction", "predictions", "pred", "preds", "ypred", "yhat", "answer"),
    *("classpred", "predictedclass", "predictedlabel", "predlabel", "predclass", "labelpred"),
    # of H2O, PyCaret and RapidMiner, Azure, KNIME
    *("predict", "predictionlabel", "scoredlabels", "predictionclass"),
)
LOGITS = ("logit", "logits")
PROBABILITIES = ("probability", "probabilities", "prob", "probs", "proba", "p", "softmax")
SCORES = (
    *(*LOGITS, *PROBABILITIES, "score", "scores", "output", "outputs", "class", "predictions"),
    *("predscore", "predscores"),
)
# what is computed from a model's scores
COMPUTED = ("loss", "losses", "nll", "crossentropy", "confidence", "conf", "entropy", "correct")
COMPUTED += ("margin",)
# what stands beside the scores, and is called a class only where labels are
BESIDE = (
    *(*COMPUTED, "fold", "split", "epoch", "step", "weight", "weights", "batch", "seed", "time"),
)
# of who keeps no scores: all that an audit needs of them; written so
REDUCED = ("predicted", "log_p_label", "log_p_predicted")


def plain(name):
    """A column's name as names are compared: image_id, ImageID and "image id" are one."""
    return "".join(c for c in name.lower() if c.isalnum())


def called(names, wanted):
    """The name that comes first among `wanted`, or None."""
    last_first = [*names][::-1]  # so that of names that are alike the first stays
    by_word = {name: name for name in last_first} | {plain(name): name for name in last_first}
    return next((by_word[word] for word in wanted if word in by_word), None)


def kind_of(name):
    """logits or probabilities, if a column's name says so, else ""."""
    if plain(name) in LOGITS:
        return "logits"
    return "probabilities" if plain(name) in PROBABILITIES else ""
