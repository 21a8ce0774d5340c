/*-------------------------------------------------------------------------
 *
 * preflight_keys.c
 *	  Foreign keys of the targets, and to them, that the source does not enforce.
 *
 * Rows are applied in replica role: no foreign key here refuses them, and none
 * has to where the source has the same one and both its tables are moved
 * together.  Of any other key PostgreSQL would say that it is valid when it is
 * not.  So they are named before, and the cutover looks for rows without a
 * parent.  A key that says itself that it is NOT VALID promises nothing, and is
 * left to rehome.structure().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/redaction.h"
#include "derive/derive.h"
#include "errors.h"
#include "mapping/mapping.h"
#include "monitor/preflight_private.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/name.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Of targets $1 (their OIDs). */
static const char *const keys_query =
	"SELECT quote_ident(k.conname), k.conrelid::oid, k.confrelid::oid, c.root, p.root,"
	" array_agg(a.attname::text ORDER BY u.i), array_agg(b.attname::text ORDER BY u.i),"
	" array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY u.i), k.confmatchtype = 'f',"
	" array_agg(t.child || '|' || t.parent ORDER BY u.i),"
	" array_agg(t.child = t.parent AND (a.atttypmod = b.atttypmod OR t.child IN ('=int', '=text')) ORDER BY u.i)"
	" FROM pg_constraint k"
	" CROSS JOIN LATERAL (SELECT coalesce(pg_partition_root(k.conrelid), k.conrelid)::oid AS root) AS c"
	" CROSS JOIN LATERAL (SELECT coalesce(pg_partition_root(k.confrelid), k.confrelid)::oid AS root) AS p"
	" CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u(att, ref, op, i)"
	" JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.att"
	" JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.ref"
	" CROSS JOIN LATERAL (SELECT " REHOME_COMPARED_AS("a") " AS child, " REHOME_COMPARED_AS("b") " AS parent) AS t"
	" JOIN pg_operator o ON o.oid = u.op JOIN pg_namespace n ON n.oid = o.oprnamespace"
	" WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated AND (c.root = ANY ($1::oid[]) OR p.root = ANY ($1::oid[]))"
	" GROUP BY k.oid, c.root, p.root ORDER BY k.conrelid::regclass::text, k.conname";

enum
{
	KEY_NAME, KEY_CHILD, KEY_PARENT, KEY_CHILD_ROOT, KEY_PARENT_ROOT, KEY_COLUMNS, KEY_REF_COLUMNS, KEY_OPERATORS,
	KEY_FULL, KEY_COMPARED, KEY_ALIKE
};

/*
 * map_of returns the map of a target, if it is one of these.
 */
static RehomeTableMap *
map_of(List *maps, Oid target)
{
	ListCell   *lc;

	foreach(lc, maps)
		if (((RehomeTableMap *) lfirst(lc))->target == target)
			return lfirst(lc);
	return NULL;
}

/*
 * source_column returns what the source calls the column that a target column is
 * a copy of, or NULL.
 */
static const char *
source_column(RehomeTableMap *map, const char *name)
{
	ListCell   *lc;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);
		char	   *copied = rehome_copied_column(column);

		if (strcmp(column->name, name) == 0)
			return copied ? rehome_remote_column(rehome_remote_table(map->source), copied) : NULL;
	}
	return NULL;
}

/*
 * compares_alike tells whether what the source takes for equal is equal here: each
 * pair of columns of a key, as REHOME_COMPARED_AS has them, is of the same type
 * here, and was at the source, if not of the very same one, of one whose equal
 * values look the same.
 */
static bool
compares_alike(const char *there, const char *here, bool alike)
{
	const char *parent = strchr(there, '|') + 1;

	if (!alike)
		return false;
	if (there[0] == '=' && strncmp(there, parent, parent - there - 1) == 0 && strlen(parent) == (size_t) (parent - there - 1))
		return true;
	return strcmp(there, here) == 0;
}

/*
 * not_enforced says what of a key the source does not enforce, NULL if nothing.
 */
static char *
not_enforced(RehomeRows *there, RehomeTableMap *child, RehomeTableMap *parent, char **key)
{
	List	   *pairs = NIL;
	List	   *columns = NIL;
	List	   *refs = NIL;
	List	   *here = rehome_name_list(key[KEY_COMPARED]);
	List	   *alike = rehome_name_list(key[KEY_ALIKE]);
	List	   *compared;
	char	  **found;
	ListCell   *a;
	ListCell   *b;

	forboth(a, rehome_name_list(key[KEY_COLUMNS]), b, rehome_name_list(key[KEY_REF_COLUMNS]))
	{
		const char *column = source_column(child, lfirst(a));
		const char *ref = source_column(parent, lfirst(b));

		if (column == NULL || ref == NULL)
			return pstrdup("the source has no such key");
		columns = lappend(columns, unconstify(char *, column));
		refs = lappend(refs, unconstify(char *, ref));
		pairs = lappend(pairs, psprintf("%s\001%s", column, ref));
	}
	found = rehome_source_key(there, child, parent, columns, refs);
	if (found == NULL)
		return pstrdup("the source has no such key");
	if (rehome_bool(key[KEY_FULL]) && !rehome_bool(found[2]) && list_length(columns) > 1)
		return pstrdup("that of the source is not MATCH FULL");
	compared = rehome_name_list(found[1]);
	foreach(a, pairs)
	{
		int			before = 0;		/* the source's are in order of the names */

		foreach(b, pairs)
			before += strcmp(lfirst(b), lfirst(a)) < 0 ? 1 : 0;
		if (!compares_alike(list_nth(compared, before), list_nth(here, foreach_current_index(a)),
							rehome_bool(list_nth(alike, foreach_current_index(a)))))
			return pstrdup("values that are equal there may not be equal here");
	}
	return NULL;
}

/*
 * other_slice returns the slice of the migration that moves a table as well, or NULL.
 */
static char *
other_slice(RehomeSlice *slice, char *target)
{
	RehomeRows *rows = rehome_spi("SELECT s.name FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
								  " WHERE s.migration_id = (SELECT migration_id FROM rehome.slice WHERE id = $1) AND s.id <> $1"
								  " AND t.target = $2::oid AND s.state NOT IN ('cancelled', 'completed')", "it", slice->id, target);

	return rows->n > 0 ? rows->value[0][0] : NULL;
}

/*
 * why_not says why the source does not see to a key, NULL if it does; *passing
 * when what it lets through for a while is gone once both slices are in sync.
 */
static char *
why_not(RehomeRows *there, RehomeSlice *slice, List *maps, char **key, bool *passing)
{
	RehomeTableMap *child = map_of(maps, atooid(key[KEY_CHILD_ROOT]));
	RehomeTableMap *parent = map_of(maps, atooid(key[KEY_PARENT_ROOT]));
	char	   *elsewhere = child == NULL ? key[KEY_CHILD_ROOT] : parent == NULL ? key[KEY_PARENT_ROOT] : NULL;
	char	   *other = elsewhere ? other_slice(slice, elsewhere) : NULL;
	char	   *why;

	*passing = false;
	if (elsewhere != NULL && other == NULL)
		return psprintf(rehome_derived_slice(slice->migration, atooid(elsewhere)) > 0 ? "rows of %s are derived" : "%s is not moved with it",
						rehome_relation_name(atooid(elsewhere)));
	if (child == NULL)
		child = rehome_table_map_of(slice->migration, atooid(elsewhere));
	if (parent == NULL)
		parent = rehome_table_map_of(slice->migration, atooid(elsewhere));
	why = not_enforced(there, child, parent, key);
	if (why != NULL)
		return why;
	if (child->on_delete == 'i' || child->on_delete == 'm')
		return psprintf("rows of %s stay when the source has deleted them", rehome_relation_name(child->target));
	if (parent->filter != NULL)
		return psprintf("rows of %s are filtered", rehome_relation_name(parent->target));
	if (parent->quarantine)
		return psprintf("rows of %s may be in quarantine", rehome_relation_name(parent->target));
	*passing = other != NULL;
	return other == NULL ? NULL :
		psprintf("%s is moved by slice \"%s\", which is cut over by itself", rehome_relation_name(atooid(elsewhere)), other);
}

/*
 * keys_of returns the keys from and to the targets, those that are derived as well.
 */
static RehomeRows *
keys_of(RehomeSlice *slice, List *maps)
{
	return rehome_spi(keys_query, "t", rehome_map_targets(list_concat_copy(maps, rehome_derived_targets(slice))));
}

/*
 * key_text returns "name of table".
 */
static char *
key_text(char **key)
{
	return psprintf("%s of %s", key[KEY_NAME], rehome_relation_name(atooid(key[KEY_CHILD])));
}

/*
 * rehome_check_keys names these keys.
 */
List *
rehome_check_keys(List *findings, RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeRows *keys = keys_of(slice, maps);
	RehomeRows *there = keys->n > 0 ? rehome_source_keys(conn, maps) : NULL;

	for (int i = 0; i < keys->n; i++)
	{
		bool		passing;
		char	   *why = why_not(there, slice, maps, keys->value[i], &passing);

		CHECK_FOR_INTERRUPTS();
		if (why != NULL)
			findings = rehome_finding(findings, "target", "warning", key_text(keys->value[i]),
									  psprintf("the source does not enforce it, and what comes from there is not held against it: %s", why),
									  passing ? "Cut both slices over while nothing is written, or move the tables in one slice." :
									  "The cutover is refused while there are rows without a parent.");
	}
	return findings;
}

/*
 * reader_of returns a role that may read both tables of a key: the migration's
 * owner, or that of one of the tables.
 */
static Oid
reader_of(RehomeSlice *slice, Oid child, Oid parent)
{
	RehomeRows *rows = rehome_spi("SELECT r.oid FROM (VALUES (1, $1::oid), (2, (SELECT relowner FROM pg_class WHERE oid = $2)),"
								  " (3, (SELECT relowner FROM pg_class WHERE oid = $3))) AS r(n, oid)"
								  " WHERE (SELECT bool_and(has_table_privilege(r.oid, c.oid, 'SELECT') AND has_schema_privilege(r.oid, c.relnamespace, 'USAGE'))"
								  "   FROM pg_class c WHERE c.oid IN ($2, $3)) ORDER BY n LIMIT 1",
								  "ooo", slice->migration->owner, child, parent);

	return rows->n > 0 ? atooid(rows->value[0][0]) : InvalidOid;
}

/*
 * rows_of returns a table as SQL, without others that inherit from it.
 */
static char *
rows_of(Oid relid)
{
	return psprintf("%s%s", get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ", rehome_relation_name(relid));
}

/*
 * half_null returns the condition that a row "c" has, of a key that is MATCH FULL,
 * some columns but not all; it cannot have one else.
 */
static char *
half_null(char **key)
{
	StringInfoData none;
	StringInfoData all;
	ListCell   *lc;

	if (!rehome_bool(key[KEY_FULL]))
		return pstrdup("false");
	initStringInfo(&none);
	initStringInfo(&all);
	foreach(lc, rehome_name_list(key[KEY_COLUMNS]))
	{
		appendStringInfo(&none, "%sc.%s IS NULL", none.len > 0 ? " AND " : "", quote_identifier(lfirst(lc)));
		appendStringInfo(&all, "%sc.%s IS NOT NULL", all.len > 0 ? " AND " : "", quote_identifier(lfirst(lc)));
	}
	return psprintf("NOT (%s) AND NOT (%s)", none.data, all.data);
}

/*
 * orphans counts the rows without a parent: number, and the columns of one, if the
 * migration's owner may see them; NULL when nobody may read both tables.
 */
static char **
orphans(RehomeSlice *slice, char **key)
{
	Oid			child = atooid(key[KEY_CHILD]);
	Oid			parent = atooid(key[KEY_PARENT]);
	Oid			reader = reader_of(slice, child, parent);
	List	   *redacted = rehome_redacted_columns(atooid(key[KEY_CHILD_ROOT]));
	List	   *columns = rehome_name_list(key[KEY_COLUMNS]);
	const char *example = psprintf("pg_catalog.concat_ws(', ', %s)", rehome_quote_list(columns, "c."));
	ListCell   *lc;

	if (!OidIsValid(reader))
		return NULL;
	foreach(lc, columns)
		if (reader != slice->migration->owner || rehome_name_listed(redacted, lfirst(lc)))
			example = "NULL::pg_catalog.text";
	return rehome_spi_as(reader, true,
						 psprintf("SELECT pg_catalog.count(*), pg_catalog.min(%s) FROM %s AS c WHERE (%s) OR (%s)", example, rows_of(child), half_null(key),
								  rehome_without_parent(columns, rows_of(parent), rehome_name_list(key[KEY_REF_COLUMNS]),
														rehome_name_list(key[KEY_OPERATORS]))))->value[0];
}

/*
 * rehome_key_gates adds the keys that rows of the targets violate as they are
 * now.  Those between slices that the source enforces are left out: a parent may
 * come with the other slice's next batch.
 */
void
rehome_key_gates(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeProblems *problems)
{
	RehomeRows *keys = keys_of(slice, maps);
	RehomeRows *there = keys->n > 0 ? rehome_source_keys(conn, maps) : NULL;

	for (int i = 0; i < keys->n; i++)
	{
		char	  **key = keys->value[i];
		bool		passing;
		char	   *why = why_not(there, slice, maps, key, &passing);
		char	  **found;

		CHECK_FOR_INTERRUPTS();
		if (why == NULL || passing)
			continue;
		found = orphans(slice, key);
		if (found == NULL)
			ereport(WARNING,
					errmsg("foreign key %s could not be checked", key_text(key)),
					errdetail("The source does not enforce it (%s), and none of the owners may read both tables.", why));
		else if (strcmp(found[0], "0") != 0)
			rehome_problem(problems, ERRCODE_REHOME_GATE,
						   psprintf("Give them parents, or delete them, where they come from; or have the key say that it is not valid: ALTER TABLE %s DROP CONSTRAINT %s, ADD CONSTRAINT %s ... NOT VALID;",
									rehome_relation_name(atooid(key[KEY_CHILD])), key[KEY_NAME], key[KEY_NAME]),
						   "Foreign key %s is violated by %s rows without a parent in %s%s%s%s; %s.", key_text(key), found[0],
						   rehome_relation_name(atooid(key[KEY_PARENT])), found[1] ? ", as (" : "", found[1] ? found[1] : "", found[1] ? ")" : "", why);
	}
}
