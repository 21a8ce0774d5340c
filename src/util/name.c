/*-------------------------------------------------------------------------
 *
 * name.c
 *	  Names of local objects as SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * rehome_relation_name returns a relation's qualified, quoted name; its OID
 * when it is gone.
 */
char *
rehome_relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		return psprintf("%u", relid);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}
