/*
 * Eight threads issue from one handle, while another program rotates the authority.
 *
 *   threads HOME EACH COMMAND     EACH leaves a thread; COMMAND is run by the shell
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>

#include "check.h"

#define THREADS 8
#define MOST 4096

static ood_ca_authority *authority;
static char serials[THREADS][MOST][33];
static int each;

static void *issue_many(void *number)
{
    ood_ca_str host = text("n001.cluster.example");
    ood_ca_issue_options want = issue_options(&host);
    char (*mine)[33] = serials[*(int *)number];
    int i;

    for (i = 0; i < each; i++) {
        ood_ca_verify_options ask;
        ood_ca_certificate_view certificate;
        ood_ca_issued_view view;
        ood_ca_issued *issued = NULL;
        ood_ca_info *info = NULL;
        ood_ca_error *error = NULL;

        want.flags = i % 2 == 0 ? 0 : (uint32_t)OOD_CA_ISSUE_IN_MEMORY;
        memset(&view, 0, sizeof view);
        view.size = sizeof view;
        memset(&certificate, 0, sizeof certificate);
        certificate.size = sizeof certificate;
        if (ood_ca_issue(authority, &want, &issued, &error) != OOD_CA_STATUS_OK ||
            ood_ca_issued_get(issued, &view, &error) != OOD_CA_STATUS_OK ||
            ood_ca_issued_certificate(issued, &certificate, &error) != OOD_CA_STATUS_OK) {
            fprintf(stderr, "%s\n", ood_ca_error_message(error, NULL));
            exit(1);
        }
        memcpy(mine[i], certificate.serial.data, 32);
        /* Leaf, key and trust belong together, whatever happened meanwhile. */
        ask = verify_options(view.certificate, OOD_CA_PURPOSE_SERVER);
        ask.key = view.key;
        ask.trust = view.trust;
        ask.peer = host;
        if (ood_ca_verify(authority, &ask, NULL, &error) != OOD_CA_STATUS_OK ||
            ood_ca_authority_info(authority, &info, &error) != OOD_CA_STATUS_OK) {
            fprintf(stderr, "%s\n", ood_ca_error_message(error, NULL));
            exit(1);
        }
        ood_ca_info_free(info);
        ood_ca_issued_free(issued);
    }
    return NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp((const char *)a, (const char *)b);
}

int main(int argc, char **argv)
{
    static char all[THREADS * MOST][33], pki_dir[4096], config[4096];
    ood_ca_open_options where;
    pthread_t threads[THREADS];
    int numbers[THREADS], i, j, count = 0;

    CHECK(argc == 4);
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", argv[1]);
    snprintf(config, sizeof config, "%s/ood_ca.yml", argv[1]);
    each = atoi(argv[2]);
    CHECK(each > 0 && each <= MOST);
    where = open_options(pki_dir, config);
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, issue_many, &numbers[i]) == 0);
    }
    CHECK(system(argv[3]) == 0);
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        for (j = 0; j < each; j++) {
            memcpy(all[count++], serials[i][j], 33);
        }
    }
    qsort(all, (size_t)count, sizeof *all, by_text);
    for (i = 1; i < count; i++) {
        CHECK(strcmp(all[i - 1], all[i]) != 0);
    }
    ood_ca_authority_free(authority);
    return done();
}
