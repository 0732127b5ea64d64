/*
 * How long one issue takes through the C ABI.
 *
 *   issue memory|recorded PKI_DIR SECONDS
 *
 * Prints {"per_issue_us": N}: the median of batches of ten, in microseconds. One
 * issue is a key, a certificate, and the texts of both read from the handle.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ood_ca.h>

#define BATCH 10
#define MOST_BATCHES 1000000

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(ood_ca_status status, ood_ca_error *error)
{
    if (status != OOD_CA_STATUS_OK) {
        fprintf(stderr, "error: %s\n", ood_ca_error_message(error, NULL));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static double batches[MOST_BATCHES];
    ood_ca_str host = {"n001.cluster.example", 20}, ip = {"10.0.0.5", 8};
    ood_ca_open_options where;
    ood_ca_issue_options want;
    ood_ca_authority *authority;
    ood_ca_error *error;
    size_t count = 0, letters = 0;
    double end;

    if (argc != 4) {
        fputs("usage: issue memory|recorded PKI_DIR SECONDS\n", stderr);
        return 2;
    }
    memset(&where, 0, sizeof where);
    where.size = sizeof where;
    where.pki_dir.data = argv[2];
    where.pki_dir.len = strlen(argv[2]);
    memset(&want, 0, sizeof want);
    want.size = sizeof want;
    want.hosts = &host;
    want.hosts_len = 1;
    want.ips = &ip;
    want.ips_len = 1;
    want.flags = strcmp(argv[1], "memory") == 0 ? OOD_CA_ISSUE_IN_MEMORY : 0;
    check(ood_ca_authority_ensure(&where, &authority, &error), error);

    end = now() + atof(argv[3]);
    while (count < MOST_BATCHES && now() < end) {
        double started = now();
        int i;
        for (i = 0; i < BATCH; i++) {
            ood_ca_issued_view view;
            ood_ca_issued *issued;
            memset(&view, 0, sizeof view);
            view.size = sizeof view;
            check(ood_ca_issue(authority, &want, &issued, &error), error);
            check(ood_ca_issued_get(issued, &view, &error), error);
            letters += view.key.len + view.certificate.len;
            ood_ca_issued_free(issued);
        }
        batches[count++] = (now() - started) / BATCH;
    }
    ood_ca_authority_free(authority);
    if (count == 0 || letters == 0) {
        return 1;
    }
    qsort(batches, count, sizeof *batches, by_value);
    printf("{\"per_issue_us\": %.3f}\n", batches[count / 2] * 1e6);
    return 0;
}
