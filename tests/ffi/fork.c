/*
 * Handles work in a process that was forked while they existed, as Passenger does.
 *
 *   fork HOME            forks of a process with one thread
 *   fork HOME FORKS      that many while other threads issue without a pause
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define CHILDREN 4

static ood_ca_authority *authority;
static ood_ca_str host;

struct leaf {
    char serial[33];
    char key[512];
};

static struct leaf issue(uint32_t flags)
{
    ood_ca_issue_options want = issue_options(&host);
    ood_ca_issued *issued;
    ood_ca_issued_view view;
    struct leaf leaf;

    want.flags = flags;
    memset(&leaf, 0, sizeof leaf);
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    view = issued_view(issued);
    CHECK(view.key.len < sizeof leaf.key);
    memcpy(leaf.key, view.key.data, view.key.len);
    memcpy(leaf.serial, issued_certificate(issued).serial.data, 32);
    ood_ca_issued_free(issued);
    return leaf;
}

/* Uses every handle that it has inherited, and frees it. */
static int child(int to, ood_ca_issued *inherited)
{
    struct leaf leaf;
    /* A child that hangs is ended, and fails. */
    alarm(120);
    CHECK(issued_view(inherited).key.len > 0);
    leaf = issue(0);
    CHECK(write(to, &leaf, sizeof leaf) == (ssize_t)sizeof leaf);
    ood_ca_issued_free(inherited);
    ood_ca_authority_free(authority);
    return 0;
}

static int ended_well(pid_t pid)
{
    int status = 0;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void one_thread(void)
{
    struct leaf leaves[CHILDREN + 2];
    ood_ca_issued *inherited;
    ood_ca_issue_options want = issue_options(&host);
    pid_t pids[CHILDREN];
    int ends[2], i, j;

    leaves[0] = issue(OOD_CA_ISSUE_IN_MEMORY);
    GOOD(ood_ca_issue(authority, &want, &inherited, &error));
    CHECK(pipe(ends) == 0);
    for (i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0) {
            exit(child(ends[1], inherited));
        }
    }
    leaves[1] = issue(0);
    for (i = 0; i < CHILDREN; i++) {
        CHECK(ended_well(pids[i]));
        CHECK(read(ends[0], &leaves[2 + i], sizeof *leaves) == (ssize_t)sizeof *leaves);
    }
    /* No two processes had the same randomness. */
    for (i = 0; i < CHILDREN + 2; i++) {
        for (j = 0; j < i; j++) {
            CHECK(strcmp(leaves[i].serial, leaves[j].serial) != 0);
            CHECK(strcmp(leaves[i].key, leaves[j].key) != 0);
        }
    }
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    ood_ca_issued_free(inherited);
    memset(leaves, 0, sizeof leaves);
}

static volatile int stop;

static void *without_pause(void *unused)
{
    (void)unused;
    while (!stop) {
        ood_ca_issue_options want = issue_options(&host);
        ood_ca_issued *issued = NULL;
        want.flags = OOD_CA_ISSUE_IN_MEMORY;
        if (ood_ca_issue(authority, &want, &issued, NULL) != OOD_CA_STATUS_OK) {
            exit(1);
        }
        ood_ca_issued_free(issued);
    }
    return NULL;
}

static void many_threads(int forks)
{
    pthread_t threads[3];
    int i;

    for (i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, without_pause, NULL) == 0);
    }
    for (i = 0; i < forks; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(60);
            issue(OOD_CA_ISSUE_IN_MEMORY);
            issue(0);
            /* Not exit(): the threads' memory is nobody's here. */
            _exit(0);
        }
        CHECK(ended_well(pid));
    }
    stop = 1;
    for (i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

int main(int argc, char **argv)
{
    static char pki_dir[4096], config[4096];
    ood_ca_open_options where;

    CHECK(argc == 2 || argc == 3);
    host = text("n001.cluster.example");
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", argv[1]);
    snprintf(config, sizeof config, "%s/ood_ca.yml", argv[1]);
    where = open_options(pki_dir, config);
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    if (argc == 3) {
        many_threads(atoi(argv[2]));
    } else {
        one_thread();
    }
    ood_ca_authority_free(authority);
    return done();
}
