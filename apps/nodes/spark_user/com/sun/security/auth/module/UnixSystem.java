package com.sun.security.auth.module;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Stands in for the JDK's own class where a job's user has no entry in /etc/passwd.
 *
 * <p>The JDK's gives null for such a user's name, and Hadoop, which every Spark asks for its
 * user, ends with "invalid null input: name". This one takes the name from $USER.
 *
 * <p>Compiled by a JDK 17 (--release knows no --patch-module), in the folder spark_user:
 * javac -g:none --patch-module jdk.security.auth=. com/sun/security/auth/module/UnixSystem.java
 */
public class UnixSystem {
    protected String username;
    protected long uid;
    protected long gid;
    protected long[] groups;

    public UnixSystem() {
        username = System.getenv("USER");
        Path self = Path.of("/proc/self");
        try {
            uid = ((Number) Files.getAttribute(self, "unix:uid")).longValue();
            gid = ((Number) Files.getAttribute(self, "unix:gid")).longValue();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        groups = new long[] {gid};
    }

    public String getUsername() {
        return username;
    }

    public long getUid() {
        return uid;
    }

    public long getGid() {
        return gid;
    }

    public long[] getGroups() {
        return groups.clone();
    }
}
