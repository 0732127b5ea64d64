/*
 * A program that forgets to free a leaf. It shows that those that watch for leaks do.
 *
 *   leak HOME
 */
#include "check.h"

int main(int argc, char **argv)
{
    static char pki_dir[4096], config[4096];
    ood_ca_open_options where;
    ood_ca_issue_options want = issue_options(NULL);
    ood_ca_authority *authority;
    ood_ca_issued *issued;

    CHECK(argc == 2);
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", argv[1]);
    snprintf(config, sizeof config, "%s/ood_ca.yml", argv[1]);
    where = open_options(pki_dir, config);
    want.flags = OOD_CA_ISSUE_ANY_HOST;
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    issued = NULL;
    CHECK(issued == NULL);
    ood_ca_authority_free(authority);
    return done();
}
