/*-------------------------------------------------------------------------
 *
 * name.c
 *	  Names of local objects as SQL, and lists of names.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "util/name.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
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

/*
 * rehome_name_list splits the text of a name[] or text[] into a List of
 * strings; NULL gives NIL.
 */
List *
rehome_name_list(const char *array)
{
	List	   *names = NIL;
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	Datum		value;

	if (array == NULL)
		return NIL;
	value = OidInputFunctionCall(F_ARRAY_IN, pstrdup(array), TEXTOID, -1);
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
		names = lappend(names, nulls[i] ? NULL : TextDatumGetCString(elems[i]));
	return names;
}

/*
 * rehome_name_listed tells whether a name is among names.  NULL, as either, is
 * none.
 */
bool
rehome_name_listed(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (name != NULL && lfirst(lc) != NULL && strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/*
 * rehome_name_array is the inverse of rehome_name_list: the text of a text[].
 * NULL among the names is SQL's null.
 */
char *
rehome_name_array(List *names)
{
	int			n = list_length(names);
	int			lower_bound = 1;
	Datum	   *elems = palloc0(sizeof(Datum) * Max(n, 1));
	bool	   *nulls = palloc0(sizeof(bool) * Max(n, 1));
	ArrayType  *array;
	ListCell   *lc;

	foreach(lc, names)
	{
		int			i = foreach_current_index(lc);

		nulls[i] = lfirst(lc) == NULL;
		if (!nulls[i])
			elems[i] = CStringGetTextDatum((char *) lfirst(lc));
	}
	array = construct_md_array(elems, nulls, n > 0 ? 1 : 0, &n, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT);
	return OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(array));
}

/*
 * rehome_without_parent returns the condition that a row "c" has a foreign key of
 * these columns, and no row with the columns it refers to is in parent, as SQL
 * names it.  operators: of each, of the parent's column with that of c; NIL: =.
 */
char *
rehome_without_parent(List *columns, const char *parent, List *refs, List *operators)
{
	StringInfoData known;
	StringInfoData same;
	ListCell   *a;
	ListCell   *b;

	initStringInfo(&known);
	initStringInfo(&same);
	forboth(a, columns, b, refs)
	{
		const char *column = quote_identifier(lfirst(a));

		appendStringInfo(&known, "c.%s IS NOT NULL AND ", column);
		appendStringInfo(&same, "%sp.%s %s c.%s", same.len > 0 ? " AND " : "", quote_identifier(lfirst(b)),
						 operators ? (char *) list_nth(operators, foreach_current_index(a)) : "=", column);
	}
	return psprintf("%sNOT EXISTS (SELECT FROM %s AS p WHERE %s)", known.data, parent, same.data);
}
