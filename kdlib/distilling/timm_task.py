"""AdaAlpha in timm's own training: a task for its train.py, or for any loop that takes one.

Written for the tasks of timm 1.0.31. B examples in a batch, C classes, G groups."""

import logging

import torch
import torch.nn.functional as F

from kdlib.config import KdlibError
from kdlib.distilling.margins import margins_of
from kdlib.losses import ada_alpha, distill

try:
    from timm.task import LogitDistillationTask, evaluation_sample_limit
except ImportError as error:
    sentence = "kdlib.distilling.timm_task needs timm 1.0.31 or later: pip install -U timm"
    raise ImportError(sentence, name=error.name) from None

_logger = logging.getLogger(__name__)
_OTHERS = ("criterion", "criterion_kwargs", "loss_type", "task_loss_weight", "distill_loss_weight")


class AdaAlphaTask(LogitDistillationTask):
    """timm's distillation of logits, with the teacher's margin in the group of each example in
    place of one weight for all; see losses.ada_alpha.

    With margins that all equal alpha it is LogitDistillationTask with task_loss_weight 1 - alpha,
    distill_loss_weight alpha, the same temperature, and timm's criterion for its targets without
    label smoothing: both take the mean over the batch, and have T^2 in the teacher term.

    A target is one of
        (B,) int64: classes, which are the groups. margin has one entry for each class;
        (B, 2) int64, or a pair of (B,) int64: class and group. margin is (G,);
        (B, C) of a floating type, rows that sum to 1: what Mixup and CutMix make. The groups are
        the classes, and the loss is the mean of that of each label under the soft target:
        the teacher is weighed by the mean of the margins, the label c by 1 - margin[c].

    margin: (G,) in [0, 1] of held-out examples, as margins_of or the method measure gives it. It is
    part of timm's checkpoints as the state of the task. options: of LogitDistillationTask."""

    def __init__(self, student_model, teacher_model, margin=None, *, verbose=True, **options):
        if wrong := options.keys() & set(_OTHERS):
            raise KdlibError(
                f"AdaAlphaTask takes no {min(wrong)}: its margins weigh the teacher against the "
                "cross-entropy of the labels."
            )
        # what timm would say of its weights is not so here
        super().__init__(student_model, teacher_model, verbose=False, **options)
        self.verbose = verbose
        if margin is not None:
            margin = torch.as_tensor(margin, dtype=torch.float32, device=self.device)
        self.register_buffer("margin", margin)

    def measure(self, loader, group_of=None):
        """Set the margins to those on a loader of held-out examples, and return them; (G,), or (C,)
        if group_of gives the group of each class.

        The images are normalised for the student, as all that the task is shown; see margins_of."""
        batches = ((x, *_labels_and_groups(target)) for x, target in loader)
        limit = evaluation_sample_limit(loader)
        margin = margins_of(self.teacher_logits, batches, group_of, limit)
        self.margin = margin if group_of is None else margin[torch.as_tensor(group_of)]
        if self.verbose:
            least, most = self.margin.aminmax()
            _logger.info(f"AdaAlphaTask: the teacher weighs from {least:.3f} to {most:.3f}")
        return self.margin

    @torch.no_grad()
    def teacher_logits(self, input):
        """(B, C) float32, of images (B, channels, H, W) as the student gets them."""
        own = self.teacher.normalize_input(input, self.student_mean, self.student_std)
        return self.teacher(own).float()

    def forward(self, input, target):
        """{"loss": mean over the batch, "output": the student's logits (B, C)}"""
        if self.margin is None:
            raise KdlibError("AdaAlphaTask has no margins: pass them, or call measure(loader).")
        logits = self.trainable_module(input)
        given = (logits.float(), self.teacher_logits(input))
        if torch.is_tensor(target) and target.is_floating_point():
            values = self._of_soft(*given, target)
        else:
            labels = _labels_and_groups(target)
            values = ada_alpha(*given, labels[0], labels[-1], self.margin, self.temperature)
        return {"loss": values.mean(), "output": logits}

    def _of_soft(self, logits, teacher_logits, target):
        """Loss of each example, (B,): sum_c target_c ada_alpha(label c)."""
        if target.shape != logits.shape or len(self.margin) != logits.shape[1]:
            found = f"have the shape {tuple(target.shape)}, the margins {tuple(self.margin.shape)}"
            raise KdlibError(
                f"Soft targets {found}, but {logits.shape[1]} classes need one of both each: an "
                "image that Mixup or CutMix made has no group but its classes."
            )
        label_term = -(target * (1 - self.margin) * F.log_softmax(logits, dim=1)).sum(dim=1)
        alpha = (target * self.margin).sum(dim=1)
        return label_term + alpha * distill(logits, teacher_logits, self.temperature)

    def get_task_state(self, module=None, ema=False):
        return {} if self.margin is None else {"margin": self.margin}

    def load_task_state(self, state, strict=True, module=None, ema=False):
        if state:
            self.margin = state["margin"].to(self.device)


def _labels_and_groups(target):
    """(y,) or (y, group), each (B,), of whole numbers (B,), (B, 2), or a pair of (B,)."""
    if not torch.is_tensor(target):
        return tuple(target)
    if target.ndim == 1:
        return (target,)
    if target.shape[1:] != (2,):
        raise KdlibError(
            f"A target has the shape {tuple(target.shape)}, but whole numbers must have (B,), the "
            "classes, or (B, 2), class and group; soft targets are of a floating type."
        )
    return target.unbind(dim=1)
