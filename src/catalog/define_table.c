/*-------------------------------------------------------------------------
 *
 * define_table.c
 *	  Table maps and column maps: checked when they are made.
 *
 * A table map starts with a copy of every target column that the source has
 * under the same name; the others are left out until map_column() gives them
 * an expression.  What cannot work is refused at once, all of it in one
 * error.  One thing may be incomplete for a moment: a NOT NULL or key column
 * that has no namesake at the source, while the source has columns that
 * nobody uses yet, is taken for a rename that map_column() will state.  It
 * is warned of, and preflight refuses to start until it is mapped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "capture/capture.h"
#include "catalog/catalog.h"
#include "catalog/define.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/redaction.h"
#include "commands/defrem.h"
#include "compat.h"
#include "errors.h"
#include "foreign/foreign.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/*
 * has_default tells whether a column gets a value when it is left out.
 */
static bool
has_default(Form_pg_attribute att)
{
	return att->atthasdef || att->attidentity != '\0' || att->attgenerated != '\0' ||
		!att->attnotnull;
}

static void
check_source(RehomeMigration *migration, Relation source, RehomeProblems *problems)
{
	char		kind = source->rd_rel->relkind;

	if (migration->server != NULL)
	{
		if (kind != RELKIND_FOREIGN_TABLE)
			rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE,
						   "IMPORT FOREIGN SCHEMA makes foreign tables of the source's tables; add_schema does so by itself.",
						   "\"%s\" is not a foreign table.", RelationGetRelationName(source));
		else if (GetForeignTable(RelationGetRelid(source))->serverid != migration->serverid)
			rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, NULL,
						   "Foreign table \"%s\" is not on server \"%s\".",
						   RelationGetRelationName(source), migration->server);
	}
	else if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
			 kind != RELKIND_VIEW && kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, NULL,
					   "\"%s\" is not a table or view.", RelationGetRelationName(source));
}

/* A source table to be mapped. */
typedef struct Moved
{
	const char *name;			/* at the source, qualified */
	const char *foreign_table;
} Moved;

static int
compare_moved(const ListCell *a, const ListCell *b)
{
	return strcmp(((Moved *) lfirst(a))->name, ((Moved *) lfirst(b))->name);
}

/*
 * check_sources_once refuses source tables that another map moves already, or
 * that are there twice: authority is held per table, and cannot go two ways.
 */
static void
check_sources_once(RehomeMigration *migration, List *sources, RehomeProblems *problems)
{
	static const char *const hint = "Authority is held per source table: map it once.";
	List	   *moved = NIL;
	List	   *names = NIL;
	List	   *options = NIL;
	RehomeRows *rows;
	ListCell   *lc;

	if (!migration->live)
		return;
	foreach(lc, sources)
	{
		Oid			relid = lfirst_oid(lc);
		RehomeRemoteTable *table;
		Moved	   *one;

		if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
			continue;
		table = rehome_remote_table(relid);
		one = palloc(sizeof(Moved));
		one->name = rehome_remote_relation(table);
		one->foreign_table = get_rel_name(relid);
		moved = lappend(moved, one);
		names = lappend(names, table->table);
		options = lappend(options, psprintf("table_name=%s", table->table));
	}
	/* of thousands only those that can be it */
	rows = rehome_spi("SELECT t.source::oid, t.target, s.name, m.name FROM rehome.table_map t"
					  " JOIN rehome.slice s ON s.id = t.slice_id"
					  " JOIN rehome.migration m ON m.id = s.migration_id"
					  " JOIN pg_foreign_table f ON f.ftrelid = t.source::oid"
					  " JOIN pg_class c ON c.oid = f.ftrelid"
					  " WHERE m.server = $1::name AND s.state NOT IN ('completed', 'cancelled')"
					  " AND (c.relname = ANY ($2::name[])"
					  "  OR EXISTS (SELECT FROM unnest(f.ftoptions) o WHERE o = ANY ($3::text[]))) ORDER BY t.id",
					  "ttt", migration->server, rehome_name_array(names), rehome_name_array(options));
	for (int i = 0; i < rows->n; i++)
	{
		char	   *theirs = rehome_remote_relation(rehome_remote_table((Oid) rehome_int64(rows->value[i][0])));

		CHECK_FOR_INTERRUPTS();
		foreach(lc, moved)
			if (strcmp(((Moved *) lfirst(lc))->name, theirs) == 0)
			{
				rehome_problem(problems, ERRCODE_DUPLICATE_OBJECT, hint,
							   "Source table %s is already moved to \"%s\" by slice \"%s\" of migration \"%s\".",
							   theirs, rows->value[i][1], rows->value[i][2], rows->value[i][3]);
				break;
			}
	}
	list_sort(moved, compare_moved);
	for (int i = 1; i < list_length(moved); i++)
	{
		Moved	   *one = list_nth(moved, i - 1);
		Moved	   *other = list_nth(moved, i);

		if (strcmp(one->name, other->name) == 0)
			rehome_problem(problems, ERRCODE_DUPLICATE_OBJECT, hint,
						   "\"%s\" and \"%s\" are both source table %s.",
						   one->foreign_table, other->foreign_table, one->name);
	}
}

static void
check_target(RehomeMigration *migration, Relation target, RehomeProblems *problems)
{
	Oid			relid = RelationGetRelid(target);
	char		kind = target->rd_rel->relkind;
	const char *name = RelationGetRelationName(target);
	char	   *unlogged = migration->live ? rehome_target_unlogged(relid) : NULL;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		!(kind == RELKIND_FOREIGN_TABLE && !migration->live))
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE,
					   "The target of a live migration is a table or a partitioned table.",
					   "\"%s\" is not a table.", name);
	if (IsSystemRelation(target) || RelationGetNamespace(target) == get_namespace_oid("rehome", true))
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, NULL,
					   "\"%s\" belongs to the system.", name);
	if (target->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, NULL,
					   "\"%s\" is a temporary table.", name);
	if (unlogged != NULL)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE,
					   psprintf("ALTER TABLE %s SET LOGGED;", unlogged),
					   "Table %s is unlogged: a crash of this server would empty it, and nothing would tell.", unlogged);
	if (kind == RELKIND_RELATION && has_subclass(relid) &&
		find_inheritance_children(relid, NoLock) != NIL)
		rehome_problem(problems, ERRCODE_FEATURE_NOT_SUPPORTED,
					   "Map each child, or use declarative partitioning.",
					   "\"%s\" has inheritance children.", name);
	if (!rehome_owns_relation(relid, migration->owner))
		rehome_problem(problems, ERRCODE_INSUFFICIENT_PRIVILEGE,
					   "The migration's owner loads, indexes and fences the target tables, so it has to own them.",
					   "Role \"%s\" does not own \"%s\".",
					   GetUserNameFromId(migration->owner, false), name);
}

/*
 * find_key returns the names of the target's primary key columns, or NIL.
 */
static List *
find_key(Relation target)
{
	List	   *key = NIL;
	Oid			pkey;
	Relation	index;

	(void) RelationGetIndexList(target);
	pkey = target->rd_pkindex;
	if (!OidIsValid(pkey))
		return NIL;
	index = index_open(pkey, AccessShareLock);
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
		key = lappend(key, get_attname(RelationGetRelid(target),
									   index->rd_index->indkey.values[i], false));
	index_close(index, AccessShareLock);
	return key;
}

/*
 * key_is_unique tells whether a unique index, neither partial nor deferrable
 * nor on expressions, stands on exactly these NOT NULL columns.
 */
static bool
key_is_unique(Relation target, List *key)
{
	ListCell   *lc;
	bool		found = false;

	foreach(lc, RelationGetIndexList(target))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index ind = index->rd_index;
		int			matched = 0;

		for (int i = 0; i < ind->indnkeyatts; i++)
			if (ind->indkey.values[i] > 0 &&
				rehome_name_listed(key, get_attname(RelationGetRelid(target), ind->indkey.values[i], false)))
				matched++;
		found = found || (ind->indisunique && ind->indimmediate && ind->indisvalid &&
						  RelationGetIndexPredicate(index) == NIL &&
						  matched == ind->indnkeyatts && matched == list_length(key));
		index_close(index, AccessShareLock);
	}
	return found;
}

/*
 * rehome_key_is_unique tells whether a target still sees to it that each row has
 * a key, and no two the same.
 */
bool
rehome_key_is_unique(Oid target, List *key)
{
	Relation	rel = table_open(target, AccessShareLock);
	bool		unique = key_is_unique(rel, key);
	ListCell   *lc;

	foreach(lc, key)
		if (!TupleDescAttr(RelationGetDescr(rel), get_attnum(target, lfirst(lc)) - 1)->attnotnull)
			unique = false;
	table_close(rel, NoLock);
	return unique;
}

/*
 * rehome_define_check_key adds what keeps key from identifying the target's
 * rows, by values that are to be on record.
 */
void
rehome_define_check_key(Relation target, List *key, RehomeProblems *problems)
{
	List	   *redacted = rehome_redacted_columns(RelationGetRelid(target));
	bool		usable = true;
	ListCell   *lc;

	if (key == NIL)
	{
		rehome_problem(problems, ERRCODE_INVALID_TABLE_DEFINITION,
					   "Add a primary key, or name the columns of a unique index: rehome.add_table(..., key => ARRAY[...]).",
					   "\"%s\" has no primary key and none was given.",
					   RelationGetRelationName(target));
		return;
	}
	foreach(lc, key)
	{
		AttrNumber	attnum = lfirst(lc) ? get_attnum(RelationGetRelid(target), lfirst(lc)) : 0;

		if (attnum <= 0)
		{
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL,
						   "Key column \"%s\" is not a column of \"%s\".",
						   lfirst(lc) ? (char *) lfirst(lc) : "NULL",
						   RelationGetRelationName(target));
			usable = false;
		}
		else if (!TupleDescAttr(RelationGetDescr(target), attnum - 1)->attnotnull)
		{
			rehome_problem(problems, ERRCODE_INVALID_TABLE_DEFINITION,
						   "ALTER TABLE ... ALTER COLUMN ... SET NOT NULL.",
						   "Key column \"%s\" of \"%s\" may be null.",
						   (char *) lfirst(lc), RelationGetRelationName(target));
			usable = false;
		}
		if (lfirst(lc) != NULL && rehome_name_listed(redacted, lfirst(lc)))
			rehome_problem(problems, ERRCODE_FEATURE_NOT_SUPPORTED,
						   "Give another key, or let the column be on record: rehome.unredact().",
						   "Key column \"%s\" of \"%s\" is redacted.",
						   (char *) lfirst(lc), RelationGetRelationName(target));
	}
	if (usable && !key_is_unique(target, key))
		rehome_problem(problems, ERRCODE_INVALID_TABLE_DEFINITION,
					   "Create a plain unique index on exactly these columns.",
					   "No unique index of \"%s\" stands on its key.",
					   RelationGetRelationName(target));
}

/*
 * check_filter parses a row filter, which the source evaluates, and returns
 * its normalized text.
 */
static char *
check_filter(RehomeCall *call, Oid owner, const char *filter, Relation source)
{
	int			level = NewGUCNestLevel();
	RehomeAs	as;
	Node	   *expr;

	rehome_become(&as, owner);

	(void) set_config_option("search_path", call->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	expr = rehome_expression_parse(filter, source, "source");
	rehome_become_self(&as);
	AtEOXact_GUC(true, level);
	if (exprType(expr) != BOOLOID)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("filter \"%s\" is of type %s, not boolean", filter,
					   format_type_be(exprType(expr))));
	if (contain_mutable_functions(expr))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				errmsg("filter \"%s\" is not immutable", filter),
				errdetail("Rows would enter and leave it without being written, and nothing would tell."),
				errhint("Use immutable functions and constants only."));
	return rehome_expression_deparse(expr, source, "source");
}

/*
 * store_columns checks each target column against its namesake and stores
 * the column maps.  Returns the source columns of the key.
 */
static List *
store_columns(int map_id, RehomeMigration *migration, Relation source, Relation target,
			  List *key, RehomeRows *columns, RehomeProblems *problems)
{
	TupleDesc	desc = RelationGetDescr(target);
	TupleDesc	from = RelationGetDescr(source);
	List	   *source_key = NIL;
	List	   *lacking = NIL;
	int			unused = 0;
	ListCell   *lc;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrNumber	attnum;
		bool		copied = false;
		bool		stated = false;

		if (att->attisdropped)
			continue;
		attnum = get_attnum(RelationGetRelid(source), NameStr(att->attname));
		for (int c = 0; columns != NULL && c < columns->n; c++)
			stated = stated || strcmp(columns->value[c][0], NameStr(att->attname)) == 0;
		if (attnum > 0 && att->attgenerated == '\0' && !stated)
		{
			Form_pg_attribute src = TupleDescAttr(from, attnum - 1);

			copied = true;
			if (src->attgenerated != '\0')
				rehome_problem(problems, ERRCODE_INVALID_TABLE_DEFINITION,
							   "Import the foreign table with OPTIONS (import_generated 'false').",
							   "Column \"%s\" of foreign table \"%s\" is declared as generated.",
							   NameStr(att->attname), RelationGetRelationName(source));
			else if (!can_coerce_type(1, &src->atttypid, &att->atttypid, COERCION_ASSIGNMENT))
				rehome_problem(problems, ERRCODE_DATATYPE_MISMATCH,
							   psprintf("rehome.add_table(..., columns => %s) states how it is computed.",
									quote_literal_cstr(psprintf("{\"%s\": \"<expression>\"}", NameStr(att->attname)))),
							   "Column \"%s\" of \"%s\" is of type %s at the source and %s here, and there is no cast.",
							   NameStr(att->attname), RelationGetRelationName(target), format_type_be(src->atttypid),
							   format_type_be(att->atttypid));
		}
		if (!copied && !stated && (!has_default(att) || rehome_name_listed(key, NameStr(att->attname))))
			lacking = lappend(lacking, NameStr(att->attname));
		rehome_spi("INSERT INTO rehome.column_map (table_map_id, \"column\", kind, expression, owner)"
				   " VALUES ($1, $2::name, $3, $4, $5::regrole)",
				   "itttt", map_id, NameStr(att->attname), copied ? "copy" : "skip",
				   copied ? quote_identifier(NameStr(att->attname)) : NULL,
				   quote_identifier(GetUserNameFromId(migration->owner, false)));
	}
	for (int i = 0; i < from->natts; i++)
		if (!TupleDescAttr(from, i)->attisdropped &&
			get_attnum(RelationGetRelid(target), NameStr(TupleDescAttr(from, i)->attname)) <= 0)
			unused++;
	foreach(lc, lacking)
	{
		char	   *hint = psprintf("SELECT rehome.map_column(%s, %s, %s, '<expression over the source columns>');",
									quote_literal_cstr(migration->name),
									quote_literal_cstr(rehome_relation_name(RelationGetRelid(target))),
									quote_literal_cstr(lfirst(lc)));

		if (unused > 0)
			ereport(WARNING,
					errcode(ERRCODE_NOT_NULL_VIOLATION),
					errmsg("column \"%s\" of \"%s\" has no source column yet and no default",
						   (char *) lfirst(lc), RelationGetRelationName(target)),
					errhint("%s", hint));
		else
			rehome_problem(problems, ERRCODE_NOT_NULL_VIOLATION,
						   psprintf("rehome.add_table(..., columns => %s) states how it is computed.",
									quote_literal_cstr(psprintf("{\"%s\": \"<expression>\"}", (char *) lfirst(lc)))),
						   "Column \"%s\" of \"%s\" has no source column and no default, and may not be null.",
						   (char *) lfirst(lc), RelationGetRelationName(target));
	}
	foreach(lc, key)
		if (get_attnum(RelationGetRelid(source), lfirst(lc)) > 0)
			source_key = lappend(source_key, lfirst(lc));
	return source_key;
}

/*
 * define checks a table map, but for what check_sources_once does, and stores
 * it; what is wrong is added to problems.  Returns the map's id, 0 when there
 * is none.
 */
static int
define(RehomeCall *call, RehomeSlice *slice, Oid source_oid, Oid target_oid,
	   List *key, const char *filter, RehomeRows *columns, bool imported, RehomeProblems *problems)
{
	static SPIPlanPtr targets = NULL;
	static SPIPlanPtr derived = NULL;
	RehomeMigration *migration = slice->migration;
	Relation	source = relation_open(source_oid, AccessShareLock);
	Relation	target = relation_open(target_oid, ShareUpdateExclusiveLock);
	RehomeRows *rows;
	List	   *source_key = NIL;
	int			others = problems->n;
	int			map_id = 0;

	if (source_oid == target_oid)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "\"%s\" cannot be its own source.", RelationGetRelationName(target));
	check_source(migration, source, problems);
	check_target(migration, target, problems);

	rows = rehome_spi_kept(&targets, "SELECT m.name, s.name, t.target, t.target = $1 FROM rehome.table_map t"
					  " JOIN rehome.slice s ON s.id = t.slice_id"
					  " JOIN rehome.migration m ON m.id = s.migration_id"
					  " WHERE s.state NOT IN ('completed', 'cancelled')"
					  " AND (t.target = $1 OR t.target IN (SELECT relid FROM pg_partition_ancestors($1))"
					  "  OR t.target IN (SELECT relid FROM pg_partition_tree($1)))",
					  "o", target_oid);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_DUPLICATE_OBJECT, NULL,
					   rehome_bool(rows->value[i][3]) ?
					   "\"%s\" is already a target of slice \"%s\" of migration \"%s\"." :
					   "\"%s\" shares rows with a target of slice \"%s\" of migration \"%s\": \"%s\".",
					   RelationGetRelationName(target), rows->value[i][1], rows->value[i][0],
					   rows->value[i][2]);
	rows = rehome_spi_kept(&derived, "SELECT m.name, d.name, d.whole, s.name FROM rehome.derivation d JOIN rehome.slice s ON s.id = d.slice_id"
					  " JOIN rehome.migration m ON m.id = s.migration_id"
					  " WHERE d.target = $1 AND (d.whole OR s.id <> $2) AND s.state NOT IN ('completed', 'cancelled')", "oi",
					  target_oid, slice->id);
	for (int i = 0; i < rows->n; i++)
		if (rehome_bool(rows->value[i][2]))
			rehome_problem(problems, ERRCODE_DUPLICATE_OBJECT, "Move the rows into another table, and derive from that.",
						   "\"%s\" is derived: \"%s\" of migration \"%s\".", RelationGetRelationName(target),
						   rows->value[i][1], rows->value[i][0]);
		else
			rehome_problem(problems, ERRCODE_DUPLICATE_OBJECT, "Move the rows by the slice that derives columns of them.",
						   "Columns of \"%s\" are derived by slice \"%s\" of migration \"%s\": \"%s\".",
						   RelationGetRelationName(target), rows->value[i][3], rows->value[i][0], rows->value[i][1]);
	if (key == NIL)
		key = find_key(target);
	rehome_define_check_key(target, key, problems);
	if (filter != NULL && problems->n == others)
		filter = check_filter(call, migration->owner, filter, source);

	if (problems->n == others)
	{
		map_id = rehome_int(rehome_spi_value("INSERT INTO rehome.table_map (slice_id, source, target, key, source_key, filter, imported)"
											 " VALUES ($1, $2, $3, $4::name[], '{}', $5, $6) RETURNING id",
											 "ioottb",
											 slice->id, source_oid, target_oid,
											 rehome_name_array(key), filter, imported));
		source_key = store_columns(map_id, migration, source, target, key, columns, problems);
	}
	if (problems->n == others)
	{
		rehome_spi("UPDATE rehome.table_map SET source_key = $2::name[] WHERE id = $1",
				   "it", map_id, rehome_name_array(source_key));
		for (int c = 0; columns != NULL && columns->nfields > 1 && c < columns->n; c++)
			rehome_define_column(call, migration, rehome_table_map_by_id(map_id), columns->value[c][0],
								 columns->value[c][1], NULL, NULL, NULL);
	}
	relation_close(target, NoLock);
	relation_close(source, NoLock);
	return map_id;
}

/*
 * begin locks out other definitions, and the start of the slice.
 */
static void
begin(RehomeSlice *slice)
{
	rehome_slice_work_lock(slice);
	rehome_spi("LOCK TABLE rehome.table_map IN SHARE ROW EXCLUSIVE MODE", "");
	rehome_slice_require(slice, "add a table to", REHOME_PLANNED, REHOME_PLANNED);
}

/*
 * rehome_define_table checks a table map and stores it.  key is NIL for the
 * target's primary key; columns has a row (name, expression or NULL) for each
 * column that is not to be copied by name, or is NULL; with names alone, the
 * caller states these columns next.  Raises with all problems; returns the
 * map's id.
 */
int
rehome_define_table(RehomeCall *call, RehomeSlice *slice, Oid source, Oid target,
					List *key, const char *filter, RehomeRows *columns, bool imported)
{
	RehomeProblems problems;
	int			map_id;

	begin(slice);
	rehome_problems_init(&problems);
	check_sources_once(slice->migration, list_make1_oid(source), &problems);
	map_id = define(call, slice, source, target, key, filter, columns, imported, &problems);
	rehome_problems_raise(&problems, "cannot map \"%s\" to \"%s\"", get_rel_name(source), get_rel_name(target));
	return map_id;
}

/*
 * rehome_define_tables does it for many tables: each source (OID) is mapped to
 * the target (OID) in the same place, by its primary key and by the names of
 * its columns.  What is wrong, with any of them, is added to problems, and
 * then nothing may be committed.
 */
void
rehome_define_tables(RehomeCall *call, RehomeSlice *slice, List *sources, List *targets,
					 bool imported, RehomeProblems *problems)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome table defined",
												  ALLOCSET_DEFAULT_SIZES);
	ListCell   *source;
	ListCell   *target;

	begin(slice);
	check_sources_once(slice->migration, sources, problems);
	forboth(source, sources, target, targets)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		(void) define(call, slice, lfirst_oid(source), lfirst_oid(target), NIL, NULL, NULL, imported, problems);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}
