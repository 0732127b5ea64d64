// A service worker that changes nothing; where it may work is the question.
