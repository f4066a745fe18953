"""Tasks: what is asked, and what answers are worth."""

from mossvl.evaluation.tasks import ExactAnswers as ExactAnswers
from mossvl.evaluation.tasks import Tally as Tally
from mossvl.evaluation.tasks import Task as Task
from mossvl.evaluation.tasks import ask as ask
from mossvl.evaluation.tasks import tallied as tallied
