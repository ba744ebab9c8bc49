-- Which builds of a project got ready, in their order: the numbers that `build.ready` carries. A number is drawn once
-- for a build, before its `build.ready` is appended.
CREATE TABLE nightshift.project_builds (
    build_id text PRIMARY KEY,
    project_id text NOT NULL,
    build_version integer NOT NULL,
    CONSTRAINT project_builds_count_from_one CHECK (build_version > 0),
    CONSTRAINT project_builds_number_once UNIQUE (project_id, build_version)
);
