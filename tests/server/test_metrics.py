from mossvl.queries.results import Result
from mossvl.server.metrics import Metrics


def test_every_gap_between_two_tokens_of_an_answer_counts():
    metrics = Metrics()
    metrics.ended(Result.of_error(ValueError()), [[5.0, 5.25, 6.0], [7.0], []])
    told = metrics.text().decode()
    assert "mossvl_inter_token_seconds_count 2.0" in told and "mossvl_inter_token_seconds_sum 1.0" in told
    assert 'mossvl_inter_token_seconds_bucket{le="0.25"} 1.0' in told
