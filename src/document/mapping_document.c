/*-------------------------------------------------------------------------
 *
 * mapping_document.c
 *	  The mapping document: source field, target field, transformation, owner,
 *	  validation rule; as rows, and as one text.
 *
 * It reads catalogs only.  What has been done to the tables since may keep an
 * expression from being parsed: then its source fields are not known, and
 * the rest of the document is as it should be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "document/document.h"
#include "document/sql/mapping_document.sql.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/attempt.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Columns of mapping_document.sql. */
enum
{
	DOC_SLICE, DOC_MAP, DOC_TARGET, DOC_SOURCE, DOC_FIELD, DOC_TYPE, DOC_KIND, DOC_TRANSFORMATION,
	DOC_IS_RULE, DOC_OWNER, DOC_VALIDATION, DOC_ON_ERROR, DOC_INVERSE, DOC_NOTE, DOC_KEY, DOC_FILTER
};

/* A rule whose source columns are asked for. */
typedef struct FieldsOf
{
	Oid			source;
	Oid			owner;			/* of the migration */
	const char *expression;
	List	   *columns;		/* char *, as the source names them */
} FieldsOf;

/*
 * find_fields fills in the source columns of a rule; for rehome_attempt.
 */
static void
find_fields(void *arg)
{
	FieldsOf   *fields = arg;
	Relation	source = relation_open(fields->source, AccessShareLock);
	RehomeAs	as;
	ListCell   *lc;

	/* constants of the expression are read by their types' input functions */
	rehome_become(&as, fields->owner);
	fields->columns = rehome_expression_columns(rehome_expression_parse(fields->expression, source, "source"), source);
	rehome_become_self(&as);
	if (source->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		foreach(lc, fields->columns)
			lfirst(lc) = pstrdup(rehome_remote_column(rehome_remote_table(fields->source), lfirst(lc)));
	relation_close(source, AccessShareLock);
}

/*
 * rehome_rule_fields returns the names of the source columns that a rule
 * reads, as the source names them; false when that cannot be told any more.
 */
bool
rehome_rule_fields(RehomeMigration *migration, Oid source, const char *expression, List **names)
{
	FieldsOf	fields = {source, migration->owner, expression, NIL};
	ErrorData  *error;

	*names = NIL;
	if (get_rel_name(source) == NULL)
		return false;
	error = rehome_attempt(find_fields, &fields);
	if (error != NULL)
	{
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		return false;
	}
	*names = fields.columns;
	return true;
}

/*
 * rehome_source_name returns what the source calls a relation.
 */
char *
rehome_source_name(Oid source)
{
	if (get_rel_relkind(source) == RELKIND_FOREIGN_TABLE)
		return rehome_remote_relation(rehome_remote_table(source));
	return rehome_relation_name(source);
}

PG_FUNCTION_INFO_V1(rehome_mapping_document);

/*
 * rehome_mapping_document(migration name) returns a row each target column.
 */
Datum
rehome_mapping_document(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeMigration *migration;
	RehomeRows *rows;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rows = rehome_spi(sql_mapping_document, "i", migration->id);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		Oid			source = (Oid) rehome_int64(v[DOC_SOURCE]);
		List	   *names = NIL;
		bool		known = true;
		char	   *values[13];

		CHECK_FOR_INTERRUPTS();
		if (rehome_bool(v[DOC_IS_RULE]))
			known = rehome_rule_fields(migration, source, v[DOC_TRANSFORMATION], &names);
		values[0] = v[DOC_SLICE];
		values[1] = rehome_relation_name((Oid) rehome_int64(v[DOC_TARGET]));
		values[2] = v[DOC_FIELD];
		values[3] = v[DOC_TYPE];
		values[4] = rehome_source_name(source);
		values[5] = known ? rehome_name_array(names) : NULL;
		values[6] = v[DOC_KIND];
		values[7] = v[DOC_TRANSFORMATION];
		values[8] = v[DOC_OWNER];
		values[9] = v[DOC_VALIDATION];
		values[10] = v[DOC_ON_ERROR];
		values[11] = v[DOC_INVERSE];
		values[12] = v[DOC_NOTE];
		rehome_sink_put(&sink, values);
	}
	rehome_derived_rows(migration, &sink);
	rehome_call_end(&call);
	return (Datum) 0;
}

/*
 * rehome_markdown_cell appends the text of a table's cell: no line ends, no bars.
 */
void
rehome_markdown_cell(StringInfo text, const char *value)
{
	for (const char *p = value ? value : ""; *p != '\0'; p++)
	{
		if (*p == '|')
			appendStringInfoString(text, "\\|");
		else if (*p == '\n')
			appendStringInfoChar(text, ' ');
		else if (*p != '\r')
			appendStringInfoChar(text, *p);
	}
}

/*
 * rehome_markdown_code appends a cell of code, in as many backticks as it takes.
 */
void
rehome_markdown_code(StringInfo text, const char *value)
{
	int			longest = 0;
	int			run = 0;
	const char *space;

	if (value == NULL || value[0] == '\0')
		return;
	for (const char *p = value; *p != '\0'; p++)
	{
		run = *p == '`' ? run + 1 : 0;
		longest = Max(longest, run);
	}
	space = longest > 0 ? " " : "";
	for (int i = 0; i <= longest; i++)
		appendStringInfoChar(text, '`');
	appendStringInfoString(text, space);
	rehome_markdown_cell(text, value);
	appendStringInfoString(text, space);
	for (int i = 0; i <= longest; i++)
		appendStringInfoChar(text, '`');
}

/*
 * append_table_head opens the section of a target table.
 */
static void
append_table_head(StringInfo text, char **v)
{
	appendStringInfo(text, "\n### %s ← %s\n\nSlice %s, key %s",
					 rehome_relation_name((Oid) rehome_int64(v[DOC_TARGET])),
					 rehome_source_name((Oid) rehome_int64(v[DOC_SOURCE])), v[DOC_SLICE], v[DOC_KEY]);
	if (v[DOC_FILTER] != NULL)
	{
		appendStringInfoString(text, ", rows with ");
		rehome_markdown_code(text, v[DOC_FILTER]);
	}
	appendStringInfoString(text, ".\n\n"
						   "| source field | target field | type | transformation | owner | validation rule | on error | inverse | note |\n"
						   "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
}

/*
 * append_unread lists the source columns that no rule of a table reads.
 */
static void
append_unread(StringInfo text, Oid source, List *read, bool all_known)
{
	Relation	rel;
	bool		first = true;

	if (get_rel_name(source) == NULL || !all_known)
		return;
	rel = relation_open(source, AccessShareLock);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		const char *name = NameStr(att->attname);
		bool		found = false;
		ListCell   *lc;

		if (att->attisdropped)
			continue;
		if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			name = rehome_remote_column(rehome_remote_table(source), name);
		foreach(lc, read)
			found = found || strcmp(lfirst(lc), name) == 0;
		if (found)
			continue;
		appendStringInfoString(text, first ? "\nNo rule reads the source's " : ", ");
		rehome_markdown_code(text, name);
		first = false;
	}
	if (!first)
		appendStringInfoString(text, ".\n");
	relation_close(rel, AccessShareLock);
}

PG_FUNCTION_INFO_V1(rehome_mapping_document_markdown);

/*
 * rehome_mapping_document_markdown(migration name) returns the document as
 * one text.
 */
Datum
rehome_mapping_document_markdown(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeRows *rows;
	RehomeRows *head;
	StringInfoData text;
	List	   *read = NIL;
	bool		all_known = true;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	head = rehome_spi("SELECT reason, owner::text, server FROM rehome.migration WHERE id = $1", "i", migration->id);
	rows = rehome_spi(sql_mapping_document, "i", migration->id);
	initStringInfo(&text);
	appendStringInfo(&text, "# Mapping of %s\n\n%s\n\n", migration->name, head->value[0][0]);
	if (migration->server != NULL)
		appendStringInfo(&text, "From server %s, by %s.\n", head->value[0][2], head->value[0][1]);
	else
		appendStringInfo(&text, "Within this database, by %s.\n", head->value[0][1]);

	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		bool		last = i + 1 == rows->n || strcmp(rows->value[i + 1][DOC_MAP], v[DOC_MAP]) != 0;
		Oid			source = (Oid) rehome_int64(v[DOC_SOURCE]);
		List	   *names = NIL;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		if (i == 0 || strcmp(rows->value[i - 1][DOC_MAP], v[DOC_MAP]) != 0)
		{
			append_table_head(&text, v);
			read = NIL;
			all_known = true;
		}
		if (rehome_bool(v[DOC_IS_RULE]) && !rehome_rule_fields(migration, source, v[DOC_TRANSFORMATION], &names))
			all_known = false;
		read = list_concat(read, names);

		appendStringInfoString(&text, "| ");
		foreach(lc, names)
		{
			if (foreach_current_index(lc) > 0)
				appendStringInfoString(&text, ", ");
			rehome_markdown_code(&text, lfirst(lc));
		}
		appendStringInfoString(&text, " | ");
		rehome_markdown_code(&text, v[DOC_FIELD]);
		appendStringInfoString(&text, " | ");
		rehome_markdown_cell(&text, v[DOC_TYPE]);
		appendStringInfo(&text, " | %s", v[DOC_KIND]);
		if (v[DOC_TRANSFORMATION] != NULL && strcmp(v[DOC_KIND], "copy") != 0)
		{
			appendStringInfoString(&text, ": ");
			rehome_markdown_code(&text, v[DOC_TRANSFORMATION]);
		}
		appendStringInfoString(&text, " | ");
		rehome_markdown_cell(&text, v[DOC_OWNER]);
		appendStringInfoString(&text, " | ");
		rehome_markdown_code(&text, v[DOC_VALIDATION]);
		appendStringInfoString(&text, " | ");
		rehome_markdown_cell(&text, v[DOC_ON_ERROR]);
		appendStringInfoString(&text, " | ");
		rehome_markdown_code(&text, v[DOC_INVERSE]);
		appendStringInfoString(&text, " | ");
		rehome_markdown_cell(&text, v[DOC_NOTE]);
		appendStringInfoString(&text, " |\n");
		if (last)
			append_unread(&text, source, read, all_known);
	}
	rehome_derived_markdown(&text, migration);
	rehome_call_end(&call);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(text.data, text.len));
}
