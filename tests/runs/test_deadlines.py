"""Who is late."""

import threading
import time

from trt_landmarks.runs.deadlines import Watch


def test_a_thread_is_late_after_its_seconds_and_only_within():
    watch = Watch(0.05)
    assert watch.late() < 0
    with watch():
        assert watch.late() < 0
        time.sleep(0.08)
        assert 0 <= watch.late() < 10
        late = []
        thread = threading.Thread(target=lambda: late.append(watch.late(main)))
        main = threading.get_ident()
        thread.start()
        thread.join()
        assert late[0] > 0
    assert watch.late() < 0


def test_several_scans_may_take_the_time_of_each():
    watch = Watch(0.05)
    with watch(1000):
        time.sleep(0.08)
        assert watch.late() < 0


def test_without_a_limit_nobody_is_late():
    with (watch := Watch())():
        assert watch.late() < 0
